"""A checkpoint as a folder that others load: an adapter for PEFT, or a whole model for transformers and vLLM."""
