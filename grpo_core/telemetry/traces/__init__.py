"""Traces of the torch profiler: written, summed up, and shown in Perfetto."""
