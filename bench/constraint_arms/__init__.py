"""What ``bench.constraint_speed`` compares: this project's patterns, and those of other libraries."""
