from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from pytest_grpo.against.protocol import Channel, ChannelClosedError


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    with here, there:
        yield here, there


Sockets = tuple[socket.socket, socket.socket]


def test_messages_arrive_in_order_whatever_their_size(sockets: Sockets) -> None:
    here, there = map(Channel, sockets)
    sent = [{"say": "sample", "values": [0.5] * size} for size in (0, 1, 200_000, 3)]
    sender = threading.Thread(target=lambda: [here.send(message) for message in sent])
    sender.start()
    assert [there.receive(60) for _ in sent] == sent
    sender.join()


def test_the_end_of_the_other_side_is_an_error_and_half_a_line_is_dropped(sockets: Sockets) -> None:
    left, right = sockets
    there = Channel(right)
    left.sendall(b'{"say": "hello"}\n{"say": "sam')
    left.close()
    assert there.receive(60) == {"say": "hello"}
    with pytest.raises(ChannelClosedError):
        there.receive(60)
    with pytest.raises(ChannelClosedError):
        there.send({"do": "run", "nodeid": "x" * 10_000_000})


def test_silence_is_an_error_after_the_time_limit(sockets: Sockets) -> None:
    there = Channel(sockets[1])
    with pytest.raises(TimeoutError):
        there.receive(0.01)
