"""Slow drift: the change points in the stored runs of a machine, which no single comparison shows."""
