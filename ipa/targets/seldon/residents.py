"""Resident variants in shape split: one container that serves several, and the queue that chooses.

The stage's container loads the variants of one group (`ipa.dataplane.stage`), each as a model of its own; its
queue names one of them with each batch. So another variant of the group is a setting of the queue, and one of
another group a setting of the container.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from heapq import nlargest
from itertools import pairwise

from ipa.model.errors import InputError
from ipa.model.pipeline import Pipeline, Stage, Variant
from ipa.model.resident import ANY_VARIANT, stand_ins
from ipa.targets.seldon.section import SeldonRun, Shape, is_microservice, seldon_of
from ipa.targets.seldon.variants import IMPLEMENTATION, MODEL_ENV, env_names, env_of, requested_of, server_of

KEY, MEMORY = "resident", "memory"
# The variables of the container and of the queue; see `ipa.dataplane.stage` and `ipa.dataplane.queue`.
MODELS = "IPA_MODELS"
VARIANT, LIGHTER, HEAVIER = "IPA_VARIANT", "IPA_LIGHTER", "IPA_HEAVIER"
GROUPS, PROFILED = "IPA_RESIDENTS", "IPA_PROFILED_S"
COMMAND = ("python", "-m", "ipa.dataplane.stage")
REMEDY = (
    "give them one image with ipa-serving, and env that differs in MLSERVER_MODEL_... alone; or leave it out"
)

Groups = tuple[tuple[str, ...], ...]


def groups_of(pipeline: Pipeline, stage: Stage) -> Groups:
    """The variants of the stage that a replica has loaded together, in the file's order; empty if it has one.

    As many as `resident` says, in groups of about the same size: a pod's variants never change, so that a
    variant alone says with which others it is loaded.
    """
    section = seldon_of(pipeline)
    if stage.residents == 1 or section is None or section.shape is not Shape.SPLIT or KEY in section.ignores:
        return ()
    names = [variant.name for variant in stage.variants]
    count = -(-len(names) // stage.residents)
    size, more = divmod(len(names), count)
    starts = [at * size + min(at, more) for at in range(count + 1)]
    return tuple(tuple(names[start:end]) for start, end in pairwise(starts))


def resident_fault(pipeline: Pipeline, stage: Stage) -> str:
    """The reason why one container cannot serve the stage's variants; empty if it can."""
    given = [run for variant in stage.variants if (run := seldon_of(variant)) is not None]
    differing = sorted(name for name in env_names(given) if len({env_of(run).get(name) for run in given}) > 1)
    others = ", ".join(name for name in differing if not name.startswith(MODEL_ENV))
    faults = {
        "not all of its variants have a `seldon:` section": len(given) < len(stage.variants),
        "a microservice has one model": any(is_microservice(pipeline, it) for it in stage.variants),
        "its variants have different images": len({run.image for run in given}) > 1,
        "a prepackaged server, or one with a model_uri, loads one model": any(
            run.model_uri is not None or server_of(run) is not None for run in given
        ),
        "not all of its variants name an `implementation`, a class of their image": any(
            IMPLEMENTATION not in env_of(run) for run in given
        ),
        f"its variants differ in env {others}, which is that of the whole container": bool(others),
    }
    return next((why for why, is_so in faults.items() if is_so), "")


def check_resident(pipeline: Pipeline, stage: Stage) -> None:
    """InputError if the stage's variants are to be resident and one container cannot serve them."""
    why = resident_fault(pipeline, stage) if groups_of(pipeline, stage) else ""
    if why:
        raise InputError(
            f"stage {stage.name!r} of pipeline {pipeline.name!r} cannot keep variants resident: {why}",
            hint=f"{REMEDY[0].upper()}{REMEDY[1:]}.",
        )


def group_named(groups: Groups, variant: str) -> str:
    """The name of the group that has the variant, which is that of the container's variant."""
    return next(("+".join(group) for group in groups if variant in group), variant)


def served_variant(groups: Groups, loaded: str, asked: str) -> str:
    """The variant that replicas with the group `loaded` serve while their queue asks for `asked`.

    The nearest in the file's order, as their queue chooses it.
    """
    names = [name for group in groups for name in group]
    (group,) = (each for each in groups if "+".join(each) == loaded)
    return min(group, key=lambda name: abs(names.index(name) - names.index(asked)))


def model_template(container: str) -> str:
    """The name of a variant's model at the container, with ANY_VARIANT for the variant."""
    return f"{container}--{ANY_VARIANT}"


def container_variants(
    pipeline: Pipeline, stage: Stage, container: str, groups: Groups
) -> tuple[Variant, ...]:
    """The variants of the stage's container: each serves one group, and has the memory of the largest."""
    runs = {variant.name: run for variant in stage.variants if (run := seldon_of(variant)) is not None}
    shared = env_of(next(iter(runs.values())))
    own = {name for name in env_names(runs.values()) if name.startswith(MODEL_ENV)}
    memory_gib, accelerators = _beside(pipeline, stage, runs)
    made = []
    for group in groups:
        models = {
            model_template(container).replace(ANY_VARIANT, name): {
                key: value for key, value in sorted(env_of(runs[name]).items()) if key in own
            }
            for name in group
        }
        env = {key: value for key, value in shared.items() if key not in own}
        run = SeldonRun(
            image=runs[group[0]].image,
            env={**env, MODELS: json.dumps(models)},
            memory_gib=memory_gib,
            accelerators=accelerators,
        )
        made.append(Variant("+".join(group), targets={"seldon": run}))
    return tuple(made)


def _beside(pipeline: Pipeline, stage: Stage, names: Iterable[str]) -> tuple[float | None, dict[str, float]]:
    """The memory and the accelerators of a container, whichever variants it has: as plans count them.

    No memory if a variant requests none: a container without a limit is not ended for what was measured.
    """
    amounts = [requested_of(pipeline, stage, name) for name in names]
    kinds = sorted({kind for each in amounts for kind in each if kind != MEMORY})
    accelerators = {kind: max(each.get(kind, 0.0) for each in amounts) for kind in kinds}
    if not all(MEMORY in each for each in amounts):
        return None, accelerators
    requested_gib = sum(nlargest(stage.residents, (each[MEMORY] for each in amounts)))
    measured = pipeline.bounds.measured.items()
    planned = [it.beside.memory_gib for (owner, _), it in measured if owner == stage.name]
    return max(requested_gib, *planned, 0.0), accelerators


def queue_variants(
    pipeline: Pipeline, stage: Stage, groups: Groups, env: Mapping[str, str]
) -> tuple[Variant, ...]:
    """The variants of the stage's queue: the same settings `env`, each with another variant to ask for."""
    known = {name: it for (owner, name), it in pipeline.bounds.measured.items() if owner == stage.name}
    # In core seconds: the queue goes by their ratios.
    times = {name: it.batch_core_s for name, it in known.items() if it.batch_core_s[0] > 0}
    profiled = " ".join(f"{name}={first:.6g},{more:.6g}" for name, (first, more) in sorted(times.items()))
    fixed = {**env, GROUPS: " ".join(",".join(group) for group in groups)}

    def run(variant: str) -> SeldonRun:
        (group,) = (each for each in groups if variant in each)
        lighter, heavier = map(" ".join, stand_ins(pipeline, stage.name, variant, group))
        told = {LIGHTER: lighter, HEAVIER: heavier, PROFILED: profiled}
        return SeldonRun(env={**fixed, VARIANT: variant}, told=told)

    return tuple(replace(each, targets={"seldon": run(each.name)}) for each in stage.variants)
