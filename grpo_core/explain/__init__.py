"""Advice for a run: where its time goes, what that would give back, and which setting to try."""
