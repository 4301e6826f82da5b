"""Phases on Modal: the app, the calls, and runs that go on without a session."""
