"""What a test can make go wrong."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Kill:
    """Kill the container of ``function`` that is given its n-th input, or that has yielded its n-th chunk."""

    function: str
    on_input: int | None
    on_chunk: int | None
    times: int
    delay_s: float
    is_preemption: bool
    num_seen: int = 0


@dataclass(slots=True)
class Faults:
    """``kills`` in wait, and how slow and how trusting the server is."""

    kills: list[Kill] = field(default_factory=list)
    image_build_s: float = 0.0
    queue_s: float = 0.0
    refuses_credentials: bool = False

    def on_input(self, function: str) -> Kill | None:
        return self._due(function, is_input=True)

    def on_chunk(self, function: str) -> Kill | None:
        return self._due(function, is_input=False)

    def _due(self, function: str, *, is_input: bool) -> Kill | None:
        for kill in self.kills:
            threshold = kill.on_input if is_input else kill.on_chunk
            if kill.function != function or threshold is None or kill.times == 0:
                continue
            kill.num_seen += 1
            if kill.num_seen >= threshold:
                kill.times -= 1
                kill.num_seen = 0 if not is_input else threshold - 1
                return kill
        return None
