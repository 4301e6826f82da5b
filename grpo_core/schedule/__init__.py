"""Joins rollouts and training: two threads, the buffer between them, checkpoints. It begins in ``loop``."""
