"""Runs phase tests elsewhere and reports them here: what travels, who runs it, how it is replayed."""
