"""Comparisons of versions whose truth is known: the same code, planted slowdowns, and this repository's history."""
