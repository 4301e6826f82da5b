"""What is trained: an adapter, or all weights."""
