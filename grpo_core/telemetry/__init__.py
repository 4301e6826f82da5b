"""Events of a run, the sinks that they go to, and the panels that show them."""

from __future__ import annotations

from grpo_core.telemetry.events import Event, Sink, Telemetry
from grpo_core.telemetry.sinks import open_telemetry

__all__ = ["Event", "Sink", "Telemetry", "open_telemetry"]
