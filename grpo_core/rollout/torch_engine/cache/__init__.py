"""The torch engine's KV cache: prompts in a prefix tree, the other tokens of each row in slots."""
