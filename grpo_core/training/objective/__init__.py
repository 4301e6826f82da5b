"""The loss of a step: policy losses, KL, penalties and weights per token."""
