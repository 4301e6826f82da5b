"""Exact checks of the phases: each recomputes what the product did by another way, and counts what differs."""
