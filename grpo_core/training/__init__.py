"""One training step: advantages, loss, forward and backward pass, optimizer, metrics. It begins in ``trainer``."""
