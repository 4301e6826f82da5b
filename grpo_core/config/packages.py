"""Packages whose environments are named ``package:NAME``, such as ``reasoning_gym:chain_sum``."""

from __future__ import annotations

ENVIRONMENT_PACKAGES = ("reasoning_gym", "verifiers")


def package_of(environment: str) -> str | None:
    """The package that has ``environment``, a name; None for a built-in one and for one of the user's own."""
    package, colon, _ = environment.partition(":")
    return package if colon and package in ENVIRONMENT_PACKAGES else None


def is_own(environment: str) -> bool:
    """Whether ``environment`` names a factory of the user's own, as ``module:factory``."""
    return ":" in environment and package_of(environment) is None
