"""Adapters at rest (``store``) and in memory (``cache``)."""
