"""What a system raises that lacks a feature."""

from __future__ import annotations

from pytest_grpo.settings.applicability import NotApplicableError


class UnsupportedError(NotApplicableError):
    """A system lacks a feature. The test that needs it does not apply, with this one line as the reason."""
