"""The spans of a run. ``with spans.DECODE:`` gives the block's time to the span, less what inner spans take.

They are in the ``ledger`` events, each in a column of its own. docs/metrics.md says what each one covers.
"""

from __future__ import annotations

from grpo_core.ledger.account import OTHER, WAIT
from grpo_core.ledger.recorder import bound


class Span:
    """A name for what a thread does. It has no state: any thread may enter it, also twice."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        recorder = bound.recorder
        if recorder is not None:
            recorder.enter(self.name)

    def __exit__(self, *_: object) -> None:
        recorder = bound.recorder
        if recorder is not None:
            recorder.leave()

    @property
    def column(self) -> str:
        """The field of a ``ledger`` event that has its seconds."""
        return f"{self.name.replace('.', '_')}_s"

    @property
    def is_wait(self) -> bool:
        """Whether the thread is idle meanwhile."""
        return self.name.startswith(WAIT)


PREFILL = Span("sample.prefill")
DECODE = Span("sample.decode")
DRAW = Span("sample.draw")
REFERENCE = Span("sample.scoring")
PROMPT = Span("sample.prompt")
ENVIRONMENT = Span("sample.environment")
REWARD = Span("sample.reward")
LOAD = Span("load")
SWAP = Span("swap")
STORE = Span("store")
PACKING = Span("train.packing")
SCORING = Span("train.scoring")
FORWARD = Span("train.forward")
BACKWARD = Span("train.backward")
GRADIENT_SUM = Span("train.gradient_sum")
OPTIMIZER = Span("train.optimizer")
SUMS = Span("train.sums")
PUBLISH = Span("publish")
CHECKPOINT = Span("checkpoint")
EVALUATE = Span("evaluate")
TELEMETRY = Span("telemetry")
START = Span("start")
WAIT_ENGINE = Span("wait.engine")
WAIT_ENVIRONMENT = Span("wait.environment")
WAIT_ANSWERS = Span("wait.answers")
WAIT_WORKERS = Span("wait.workers")
WAIT_BATCH = Span("wait.batch")
WAIT_ROOM = Span("wait.room")
WAIT_PROCESSES = Span("wait.processes")
WAIT_END = Span("wait.end")

UNNAMED = Span(OTHER)
"""For a block whose own time shall count as ``other`` in a thread that idles outside of it."""

SPANS = (
    PREFILL, DECODE, DRAW, REFERENCE, PROMPT, ENVIRONMENT, REWARD, LOAD, SWAP, STORE,
    PACKING, SCORING, FORWARD, BACKWARD, GRADIENT_SUM, OPTIMIZER, SUMS,
    PUBLISH, CHECKPOINT, EVALUATE, TELEMETRY, START,
    WAIT_ENGINE, WAIT_ENVIRONMENT, WAIT_ANSWERS, WAIT_WORKERS, WAIT_BATCH, WAIT_ROOM, WAIT_PROCESSES, WAIT_END,
)  # fmt: skip
"""All of them, in the order of their columns."""
