"""Runs the episodes of a batch with an engine: requests, rounds, seeds, starting states, groups."""
