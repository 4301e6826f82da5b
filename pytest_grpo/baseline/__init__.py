"""What was measured before: stored results, the machine they came from, and how two of them are compared."""
