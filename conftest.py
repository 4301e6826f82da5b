"""Fixtures that every test of this repository may use."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests")  # also of what stands beside the tests
pytest_plugins = ["pytester"]
