"""The default engine: continuous batching in torch and compiled code. It begins in ``engine``."""
