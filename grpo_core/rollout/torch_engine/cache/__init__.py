"""Keys and values of the torch engine: prompts in a prefix tree, own tokens of rows in slots."""
