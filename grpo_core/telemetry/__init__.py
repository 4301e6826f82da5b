"""What a run reports while it runs, where it goes, and how it is looked at."""

from __future__ import annotations

from grpo_core.telemetry.events import Event, Sink, Telemetry
from grpo_core.telemetry.sinks import open_telemetry

__all__ = ["Event", "Sink", "Telemetry", "open_telemetry"]
