"""Faster versions of ``transformers``' decoder modules for training on a CPU, in float32 or float64.

Each subclasses the module that it replaces and overrides ``forward``: parameters, names and hooks stay. On a GPU, under
autocast, or once its weights are trained, it falls back to the original ``forward``.
"""
