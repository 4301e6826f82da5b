"""A Modal on this machine, for tests: the SDK's own protocol on 127.0.0.1, the SDK's own entrypoint in each container.

The client that is tested is the real SDK, and so is the code that runs a function. What stands in between is written
here, one noun a file: ``server`` (starts and stops it, plants faults), ``endpoint`` (gRPC), ``apps``, ``functions``,
``calls``, ``scheduler``, ``containers``, ``volumes``, ``mounts``, ``images``, ``secrets``, ``logs``, ``blobs``. A room
is a class whose methods have the names of the calls they answer; ``records`` holds the data that the rooms share.
"""

from __future__ import annotations

from tests.modal_server.server import ModalServer as ModalServer
