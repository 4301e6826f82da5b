"""What the command lines share: the parser, the flags of a configuration, and the choice of a checkpoint."""
