"""Counts of what a system computes, taken from its modules and tokenizers instead of its own word."""
