"""The result of a run on Seldon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from ipa.model.pipeline import Pipeline
from ipa.targets.seldon.section import Shape
from tests.fakes.kube.node import PodEvent

Decision = Mapping[str, Any]
# Of a change, whose pods are started and taken away after it until the next one.
KINDS = ("variant", "cores", "batch", "replicas")
FRONTS = ("-svc-orch", "-queue", "-router-0-router", "-router")


@dataclass(frozen=True, slots=True)
class Applied:
    """A decision that was written: when, what it changed, and what became of pods until the next one.

    Pods of stages and others, which are orchestrators, routers and queues.
    """

    at_s: float
    kind: str
    detail: str
    stage_started: int
    stage_taken: int
    front_taken: int
    # Containers that ended by themselves.
    ended: int


def kind_of(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    """The differences, such as "variant, replicas"."""
    keys = {"variant": "variant", "cores": "cores", "batch": "batch_size", "replicas": "replicas"}
    pairs = list(zip(before, after, strict=True))
    return ", ".join(kind for kind in KINDS if any(a[keys[kind]] != b[keys[kind]] for a, b in pairs))


def applied(
    decisions: Sequence[Decision], at_s: Mapping[int, float], events: Sequence[PodEvent], end_s: float
) -> list[Applied]:
    """Every decision that was written; `at_s` says when by its tick, on the clock of the events.

    A tick that was not seen is as late as the next one that was.
    """
    written = [it for it in decisions if it["action"] == "apply"]
    begun = [min((at_s[it] for it in at_s if it >= each["tick"]), default=end_s) for each in written]
    rows = []
    for decision, since_s, until_s in zip(written, begun, [*begun[1:], end_s], strict=False):
        counts = Counter((_is_front(it.app), it.what) for it in events if since_s <= it.at_s < until_s)
        rows.append(
            Applied(
                since_s,
                kind_of(decision["previous"], decision["configs"]),
                decision["detail"],
                counts[False, "started"],
                counts[False, "taken"],
                counts[True, "taken"],
                counts[False, "ended"] + counts[True, "ended"],
            )
        )
    return rows


def _is_front(app: str) -> bool:
    return app.endswith(FRONTS)


def stage_latencies_s(
    prometheus_url: str, pipeline: Pipeline, shape: str, ratio: float, over_s: float, at_s: float
) -> dict[str, float]:
    """The latency of each stage that this share of its requests did not exceed, in the time before `at_s`."""
    if shape != Shape.SINGLE:
        series, label, of = (
            "ipa_queue_stage_seconds_bucket",
            "stage",
            {it.name: it.name for it in pipeline.stages},
        )
    else:
        series, label = "seldon_api_executor_client_requests_seconds_bucket", "model_name"
        of = {it.container or it.name: it.name for it in pipeline.stages}
    query = f"histogram_quantile({ratio}, sum by (le, {label}) (increase({series}[{over_s:.0f}s])))"
    answer = httpx.get(
        f"{prometheus_url}/api/v1/query", params={"query": query, "time": f"{at_s:.3f}"}, trust_env=False
    )
    rows = answer.raise_for_status().json()["data"]["result"]
    return {of[row["metric"][label]]: float(row["value"][1]) for row in rows if row["metric"][label] in of}
