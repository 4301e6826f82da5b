"""Parts of ``transformers``' decoders that run faster in training, on a CPU and in float32 or float64.

Each is the module that it replaces, with another ``forward``: parameters, names and hooks stay. Where its fast path is
not to be had (on a GPU, under autocast, once its weights are trained) it is what it was.
"""
