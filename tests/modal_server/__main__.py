"""A Modal on this machine for one command: ``python -m tests.modal_server pytest -m phase2 --modal``.

Without a command it prints what to set in a shell, and serves until Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.modal_server.server import ModalServer


def main(command: list[str]) -> int:
    with ModalServer() as server:
        if command:
            process = subprocess.Popen(command, env=os.environ | server.environment)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which may need the server to stop
            return process.wait()
        print(*(f"export {name}={value}" for name, value in server.environment.items()), sep="\n", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
