"""One forward pass over packed sequences: layout, attention over prefix trees, layers, the head."""
