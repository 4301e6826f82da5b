"""Plays episodes with an engine: requests, rounds, seeds, starting states, the batch of groups."""
