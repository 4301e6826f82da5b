"""What an answer may be: lines of a set, or a regular expression, as the tokens that are allowed next."""
