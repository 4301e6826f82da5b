"""The books of a run: after each step, where its time and its tokens went, and the figures that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from grpo_core.ledger.account import Account
from grpo_core.ledger.recorder import Recorder
from grpo_core.schedule.accounting.events import emit_accounts
from grpo_core.schedule.accounting.figures import Figures
from grpo_core.schedule.accounting.tokens import TokenLedger
from grpo_core.telemetry.events import Telemetry
from grpo_core.types import Batch, StepMetrics


class Books:
    """Emits what each step took: the ledger's accounts, the tokens and the figures.

    The training thread calls it; ``figures`` is called by the rollout thread, too.
    """

    def __init__(self, telemetry: Telemetry, recorder: Recorder, figures: Figures) -> None:
        self.figures = figures
        self._telemetry = telemetry
        self._recorder = recorder

    def close_step(
        self, batch: Batch, metrics: StepMetrics, num_stale_tokens: int, followers: Sequence[Account]
    ) -> None:
        """Emit what the step with ``metrics`` took since the step before; ``followers`` are of the other processes."""
        tokens = TokenLedger.of_step(batch.stats, metrics, num_stale_tokens)
        self._recorder.adopt(followers)
        own, *others = self._recorder.cut()
        emit_accounts((own, *others), metrics.step, self._telemetry)
        self._telemetry.emit("token_ledger", step=metrics.step, **asdict(tokens))
        self._telemetry.emit("figures", step=metrics.step, **self.figures.after_step(metrics, batch, tokens, own))

    def close(self, step: int) -> None:
        """Emit what was left to do after the last ``step``."""
        emit_accounts(self._recorder.cut(), step, self._telemetry)
