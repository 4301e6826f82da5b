"""How a batch is checked, and split: into mini-batches, one per update, and micro-batches, one per forward pass."""
