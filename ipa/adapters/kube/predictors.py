"""Several configurations of a pipeline side by side: predictors of one SeldonDeployment share its traffic.

The first is the pipeline's own predictor, the others are called after it: default, default-2, default-3. Each
is a whole graph, with an orchestrator of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from ipa.adapters.kube.locate import drift, target_of
from ipa.adapters.kube.manifest import canonical, read, render
from ipa.adapters.kube.patch import Draft, Operation, change_all
from ipa.adapters.kube.split import is_split
from ipa.adapters.kube.variants import Json
from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig

WHOLE_PERCENT = 100
# As many as a mixture may have; more are not looked for.
MOST = 3
PREDICTORS = ("spec", "predictors")


@dataclass(frozen=True, slots=True)
class Share:
    """A configuration of every stage, and the percent of the requests that it takes."""

    percent: int
    configs: tuple[StageConfig, ...]


def render_mixture(pipeline: Pipeline, shares: Sequence[Share]) -> dict[str, Any]:
    """The SeldonDeployment that runs the shares side by side; of one share, what `render` gives.

    InputError as `render`, and where the shares are not one to three of together 100 percent.
    """
    _check(pipeline, shares)
    first, *others = [
        render(named, share.configs) for named, share in zip(_named(pipeline), shares, strict=False)
    ]
    predictors = [body["spec"]["predictors"][0] for body in (first, *others)]
    if others:
        for predictor, share in zip(predictors, shares, strict=True):
            predictor["traffic"] = share.percent
    first["spec"]["predictors"] = predictors
    return first


def read_mixture(pipeline: Pipeline, sdep: Json) -> tuple[Share, ...]:
    """The shares that the SeldonDeployment asks for, the pipeline's own predictor first.

    DriftError as `read`, and where predictors of other people take requests.
    """
    predictors = (sdep.get("spec") or {}).get("predictors") or []
    traffic = {one["name"]: int(one.get("traffic") or 0) for one in predictors if not one.get("shadow")}
    ours = [named for named in _named(pipeline) if target_of(named).predictor in traffic]
    names = [target_of(named).predictor for named in ours]
    problems = [
        f"predictor {name!r} takes {percent} % of the requests, and is none of the pipeline's"
        for name, percent in traffic.items()
        if name not in names and (percent or len(traffic) == 1)
    ]
    if names[:1] != [target_of(pipeline).predictor]:
        problems.append(
            f"has predictors {', '.join(traffic) or '(none)'}, not {target_of(pipeline).predictor!r}"
        )
    if problems:
        raise drift(pipeline, problems)
    return tuple(
        Share(traffic[name] if len(traffic) > 1 else WHOLE_PERCENT, read(named, sdep))
        for name, named in zip(names, ours, strict=True)
    )


def build_mixture_patch(pipeline: Pipeline, live: Json, wanted: Sequence[Share]) -> list[Operation]:
    """The one guarded JSON Patch from the live object to the wanted shares; empty where nothing changes.

    Shares are put where they change least, so that a change of traffic alone touches traffic alone. What is
    new is added last, what is gone removed last. Errors as `read_mixture` and `render_mixture`.
    """
    _check(pipeline, wanted)
    running = read_mixture(pipeline, live)
    shares = _least_change(running, [replace(each, configs=canonical(each.configs)) for each in wanted])
    draft = Draft(live)
    index = {one["name"]: at for at, one in enumerate(live["spec"]["predictors"])}
    named = _named(pipeline)
    for own, _, share in zip(named, running, shares, strict=False):
        change_all(draft, own, live, share.configs)
    whole = render_mixture(pipeline, shares)["spec"]["predictors"]
    for predictor in whole[: len(running)]:
        _set_traffic(draft, index[predictor["name"]], predictor.get("traffic"))
    for predictor in whole[len(running) :]:
        draft.append(PREDICTORS, predictor)
    gone = [index[target_of(own).predictor] for own in named[len(shares) : len(running)]]
    for at in sorted(gone, reverse=True):
        draft.test((*PREDICTORS, at, "name"), draft.value((*PREDICTORS, at, "name")))
        draft.set((*PREDICTORS, at), None)
    return draft.patch()


def _set_traffic(draft: Draft, at: int, percent: int | None) -> None:
    path = (*PREDICTORS, at)
    # A lone predictor takes all, whatever it says.
    if percent is None and draft.value((*path, "traffic")) in (None, 0, WHOLE_PERCENT):
        return
    if draft.value((*path, "traffic")) != percent:
        draft.test((*path, "name"), draft.value((*path, "name")))
        draft.set((*path, "traffic"), percent)


def _named(pipeline: Pipeline) -> list[Pipeline]:
    """The pipeline once for each predictor it may have."""
    target = target_of(pipeline)
    names = [target.predictor, *(f"{target.predictor}-{number}" for number in range(2, MOST + 1))]
    return [replace(pipeline, seldon=replace(target, predictor=name)) for name in names]


def _check(pipeline: Pipeline, shares: Sequence[Share]) -> None:
    problems = [Problem(problem) for problem in _faults(pipeline, shares)]
    if problems:
        raise InputError(f"pipeline {pipeline.name!r} cannot run these shares", problems=problems)


def _faults(pipeline: Pipeline, shares: Sequence[Share]) -> Iterator[str]:
    if not 1 <= len(shares) <= MOST:
        yield f"there must be one to {MOST} shares, not {len(shares)}"
    for share in shares:
        if share.percent < 1:
            yield f"a share of {share.percent} % is none; leave it out"
    total = sum(share.percent for share in shares)
    if shares and total != WHOLE_PERCENT:
        yield f"the shares are {total} % together, not {WHOLE_PERCENT} %"
    if len(shares) > 1 and is_split(pipeline):
        yield "shape split has one router and no predictors to share; use shape single"


def _least_change(running: Sequence[Share], wanted: Sequence[Share]) -> tuple[Share, ...]:
    """The wanted shares in the order in which the fewest stages change; in their own where that is open."""

    def changed(order: Sequence[Share]) -> int:
        pairs = zip(running, order, strict=False)
        return sum(
            old != new for now, then in pairs for old, new in zip(now.configs, then.configs, strict=True)
        )

    return min(permutations(wanted), key=changed)
