"""The loop's hook that tells each tick to OpenTelemetry as a span."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ipa.control.loop.snapshot import Snapshot
from ipa.model.decision import UNHEALTHY, Decision

NS = 1e9


class TickSpans:
    """The hook; `provider` makes the tracer. A tick whose reason is unhealthy is an error."""

    def __init__(self, provider: Any) -> None:
        self._tracer = provider.get_tracer(__name__)

    def __call__(self, decision: Decision, snapshot: Snapshot) -> None:
        """Tell the tick: what was decided, why, and how long it took."""
        from opentelemetry.trace import StatusCode

        began_s = datetime.fromisoformat(decision.at).timestamp()
        words = {
            "ipa.pipeline": decision.pipeline,
            "ipa.decision": decision.decision_id,
            "ipa.action": decision.action.value,
            "ipa.reason": decision.reason.value,
            "ipa.detail": decision.detail,
        }
        span = self._tracer.start_span("tick", start_time=int(began_s * NS), attributes=words)
        if decision.reason in UNHEALTHY:
            span.set_status(StatusCode.ERROR, decision.reason.value)
        span.end(int((began_s + snapshot.tick_s) * NS))
