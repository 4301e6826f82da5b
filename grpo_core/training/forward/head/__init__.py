"""Log-probability and entropy of chosen tokens from the hidden states that predict them: the model's head.

Logits are computed chunk by chunk and never kept. With a frozen head the forward pass also computes the gradient of
each token's hidden state, while the chunk's probabilities are in memory; with a trainable head the backward pass
recomputes the chunks. A token with a support uses only the head's rows of that support: a chunk gathers the union of
its tokens' supports (``Block``), or each token its own rows where supports are so narrow that this is less work
(``Ragged``).
"""
