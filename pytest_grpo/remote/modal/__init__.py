"""Phases on Modal: the app, its calls, and detached runs."""
