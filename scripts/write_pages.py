"""Write docs/configuration.md and docs/options.md from the code; ``--check`` compares and writes nothing.

uv run python scripts/write_pages.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.configuration_page import configuration_page
from scripts.options_page import options_page

PROJECT_FOLDER = Path(__file__).resolve().parent.parent


def pages() -> dict[Path, str]:
    """The text of each generated page."""
    docs = PROJECT_FOLDER / "docs"
    return {docs / "configuration.md": configuration_page(), docs / "options.md": options_page()}


def stale_pages() -> list[str]:
    """The pages that are not what the code gives."""
    return [
        str(path.relative_to(PROJECT_FOLDER))
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="write the generated pages of docs/")
    parser.add_argument("--check", action="store_true", help="only say which pages differ from the code")
    if not parser.parse_args(arguments).check:
        for path, text in pages().items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = stale_pages()
    for name in stale:
        print(f"{name} differs from the code; run: uv run python scripts/write_pages.py")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
