"""The traces that a run's events become."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from grpo_core.telemetry.otel.spans import spans_of
from tests.grpo_core.telemetry.otel.otlp_server import values_of


def check_traces(events: Sequence[Mapping[str, Any]]) -> list[set[str]]:
    """Each step that was trained is one trace with one root, ``rl.loop``, and every parent is in it. Returns the
    processes of each. A batch that was sampled before a run was stopped, and trained on afterwards, has no root."""
    traces: dict[bytes, list[Span]] = defaultdict(list)
    for event in events:
        if event["kind"] == "ledger":
            for span in map(Span.FromString, spans_of(event)):
                traces[span.trace_id].append(span)
    found = []
    for spans in traces.values():
        ids = {span.span_id for span in spans}
        assert len(ids) == len(spans)
        roots = [span.name for span in spans if not span.parent_span_id]
        if "rl.train" in {span.name for span in spans}:
            assert roots == ["rl.loop"]
            assert all(span.parent_span_id in ids for span in spans if span.parent_span_id)
            processes = [values_of(span.attributes).get("grpo.process") for span in spans]
            found.append({str(process) for process in processes if process is not None})
        else:
            assert roots == []
    return found
