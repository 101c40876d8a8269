"""Autoscalers that people have put on a pipeline from outside of its SeldonDeployment.

One that scales what we scale undoes every change of ours, and we its. KEDA's ScaledObjects need no look of
their own: each makes a HorizontalPodAutoscaler.
"""

from __future__ import annotations

from collections.abc import Sequence

from ipa.model.pipeline import Pipeline
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT, StageLocation, drift
from ipa.targets.seldon.variants import Json

KEDA_LABEL = "scaledobject.keda.sh/name"


def check_autoscalers(
    pipeline: Pipeline, sdeps: Sequence[str], places: Sequence[StageLocation], autoscalers: Sequence[Json]
) -> None:
    """DriftError names every stage whose Deployment, or SeldonDeployment, another controller scales."""
    stages = {place.deployment: place.stage.name for place in places}
    problems = []
    for autoscaler in autoscalers:
        target = (autoscaler.get("spec") or {}).get("scaleTargetRef") or {}
        kind, name = target.get("kind"), str(target.get("name", ""))
        words = f"{_named(autoscaler)} scales {kind} {name}: another controller owns its replicas"
        if kind == "Deployment" and name in stages:
            problems.append(f"stage {stages[name]!r}: {words}; remove it first")
        elif kind == SELDON_DEPLOYMENT.kind and name in sdeps:
            problems.append(f"every stage: {words}; remove it first")
    if problems:
        raise drift(pipeline, problems)


def _named(autoscaler: Json) -> str:
    metadata = autoscaler["metadata"]
    scaled = (metadata.get("labels") or {}).get(KEDA_LABEL)
    made_by = f" (of KEDA's ScaledObject {scaled!r})" if scaled else ""
    return f"HorizontalPodAutoscaler {metadata['name']!r}{made_by}"
