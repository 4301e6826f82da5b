"""The file of a report.

``grpo_core.home`` does not write it: a session that compares two versions imports that module from one of them, and an
old one lacks file modes.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_report(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whose folder is made. A reader sees all of it or none.

    Others may read it, as far as the umask lets them.

    Raises:
        OSError: it cannot be written; a file that was there stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
