"""The policy: the model, its tokenizer, the attention that packed sequences need, and the embedded presets."""
