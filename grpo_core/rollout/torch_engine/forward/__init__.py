"""One pass of the decoder over packed tokens: in torch, and compiled."""
