"""Runs phase tests in another process or container, and replays their reports in this session."""
