"""``grpo dashboard``: a live page of the runs on this machine."""

from __future__ import annotations

import argparse
import webbrowser
from contextlib import suppress

from rich.console import Console

from grpo_core.home import Home

_LOOPBACK = "127.0.0.1"
_DEFAULT_PORT = 8470


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port", type=int, default=_DEFAULT_PORT, metavar="N", help="where the page is served; 0 takes a free one"
    )
    parser.add_argument(
        "--host",
        default=_LOOPBACK,
        metavar="ADDRESS",
        help="an address of this machine that others may reach; the page then asks for the token in the printed link",
    )
    parser.add_argument("--token", action="store_true", help="ask for a token on this machine, too: it has other users")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Serve until Ctrl-C."""
    from grpo_core.dashboard.server import Server
    from grpo_core.web.addresses import LOOPBACK_NAMES

    home = Home.from_environment()
    with_token = flags.token or flags.host not in LOOPBACK_NAMES
    with Server(home, flags.host, flags.port, with_token=with_token) as server:
        console.print(f"runs of {home.data}", soft_wrap=True)
        console.print(f"page at {server.url}", soft_wrap=True, markup=False)
        console.print("Ctrl-C ends it.")
        if flags.open:
            webbrowser.open(server.url)
        with suppress(KeyboardInterrupt):  # uvicorn has closed everything, and hands the signal on
            server.run()
    return 0
