"""Environments of the package verifiers: their agents ask a server on the loopback, which hands the turns to a run."""
