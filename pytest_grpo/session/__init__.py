"""What a pytest session owns: its fixtures, the verdict report, and its baselines."""
