"""Where a gate decides: arms are compared, a threshold judges, and the verdict is recorded with its test."""
