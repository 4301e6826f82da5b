"""Weights & Biases: the connection that events go through, their names there, a saved view, and a baseline's report."""
