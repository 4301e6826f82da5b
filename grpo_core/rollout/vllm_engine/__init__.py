"""The engine that samples in vLLM's own processes: ``engine`` runs here, ``logits_processor`` in vLLM."""
