"""One reader per format of a log. Each recognises its format by content, and finds the same kind of records."""
