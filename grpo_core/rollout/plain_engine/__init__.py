"""The slow engine that anyone can check: one sequence at a time, through ``transformers``."""
