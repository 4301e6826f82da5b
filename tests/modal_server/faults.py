"""What a test can make go wrong."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Kill:
    """Kill the container of ``function`` that is given its n-th input or has yielded its n-th chunk.

    ``times`` goes on with each input that follows or, with ``same_input``, only where the same one is tried again.
    """

    function: str
    on_input: int | None
    on_chunk: int | None
    times: int
    delay_s: float
    is_preemption: bool
    same_input: bool = False
    num_seen: int = 0
    input_id: str = ""
    """The first one that it hit."""


@dataclass(slots=True)
class Faults:
    """``kills`` in wait, and how slow and how trusting the server is."""

    kills: list[Kill] = field(default_factory=list)
    image_build_s: float = 0.0
    queue_s: float = 0.0
    refuses_credentials: bool = False

    def on_input(self, function: str, input_id: str) -> Kill | None:
        """What shall happen to the container that is given this input, if anything."""
        for kill in self._of(function):
            if kill.on_input is None or (kill.same_input and kill.input_id not in ("", input_id)):
                continue
            kill.num_seen += 1
            if kill.num_seen >= kill.on_input:
                kill.input_id = input_id
                kill.times -= 1
                return kill
        return None

    def on_chunk(self, function: str) -> Kill | None:
        """What shall happen to the container that has yielded a chunk, if anything."""
        for kill in self._of(function):
            if kill.on_chunk is None:
                continue
            kill.num_seen += 1
            if kill.num_seen == kill.on_chunk:
                kill.num_seen = 0  # the next attempt begins at its first chunk
                kill.times -= 1
                return kill
        return None

    def _of(self, function: str) -> list[Kill]:
        return [kill for kill in self.kills if kill.function == function and kill.times]
