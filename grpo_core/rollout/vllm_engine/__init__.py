"""The engine that samples in vLLM's own processes: ``engine`` runs here, ``sampler`` in vLLM."""
