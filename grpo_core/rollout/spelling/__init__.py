"""How a tokenizer writes a text: whether it would write a token after a context and before some text."""
