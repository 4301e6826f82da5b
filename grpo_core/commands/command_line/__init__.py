"""What the commands' lines have in common: the parser, the flags of a configuration, and a checkpoint that is named."""
