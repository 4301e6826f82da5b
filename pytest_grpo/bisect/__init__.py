"""Finds the first commit on which a phase fails; each commit is judged by the phase's full statistics."""
