"""The slow, simple engine: one sequence at a time, through ``transformers``."""
