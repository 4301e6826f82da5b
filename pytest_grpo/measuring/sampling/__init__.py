"""How samples of arms are taken: rounds in random order, by a clock that waits for devices, with spans and memory."""
