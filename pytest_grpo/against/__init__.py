"""Compares two versions of a project: the same tests, on both sides, in pairs."""
