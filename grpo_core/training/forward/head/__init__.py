"""Log-probability and entropy of chosen tokens from the hidden states that predict them: the model's head.

Logits are computed chunk by chunk and never kept. With a frozen head the forward pass also computes what the backward
pass needs, a vector of the hidden size per token, while the chunk's probabilities are there; with a trainable one the
backward pass computes the chunks again. A token with a support takes only the rows of it: those of all tokens of its
chunk together, or one by one where supports are so narrow that this is less work.
"""
