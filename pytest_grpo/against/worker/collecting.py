"""The pytest plugin of a session that collects the tests of another tree; see ``own_modules``."""

from __future__ import annotations

from pathlib import Path

from pytest_grpo.against.worker.own_modules import use_modules_of

use_modules_of(Path.cwd())
