"""A checkpoint: its folder, the ``state.json`` in it, which is read without torch, and the random number generators."""
