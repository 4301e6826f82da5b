"""Weights that the engine runs with: fused layers, adapters, full weights, versions, packed products."""
