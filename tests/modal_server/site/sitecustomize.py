"""Runs first in every container: it has the installed packages, and of this project only what its app brings along.

An editable install puts the project's folder on the path of the interpreter; a container on Modal has no such folder,
and would fail where this one quietly found a file that the app forgot.
"""

import importlib.metadata
import os
import sys

_given = {"", *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
sys.path[:] = [
    path for path in sys.path if path in _given or path.startswith(sys.base_prefix) or "site-packages" in path
]
_find = importlib.metadata.MetadataPathFinder.find_distributions


def _find_installed(*arguments, **keywords):
    return (one for one in _find(*arguments, **keywords) if one.read_text("direct_url.json") is None)


importlib.metadata.MetadataPathFinder.find_distributions = _find_installed
