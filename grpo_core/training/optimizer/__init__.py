"""The optimizers, and the learning rate by step."""
