"""Runs of grpo_core's own training loop, for ``GrpoCoreSystem``."""
