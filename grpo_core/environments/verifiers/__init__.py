"""Environments of the package verifiers, whose programs play as agents."""
