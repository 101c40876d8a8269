"""The times of changes on Seldon on this machine, and those expected; runs/demo-seldon/changes.json.

Every kind of change of a stage: variant, batch size, cores, replicas, and several of them at once, with 1 to
8 replicas; and parts, a second configuration that is added, given a share, and left alone. Predicted are
the waves of starts times the readiness of a replica, measured from the creation of a SeldonDeployment until
the API server says that its pods are ready.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.demo_seldon.cluster import SeldonHere, pipeline_in, seldon_here
from experiments.live.cells import PIPELINES
from ipa.adapters.kube.client import KubeClient
from ipa.control.ports import RolloutPhase, Workload
from ipa.model.decision import Change
from ipa.model.parts import in_order, parts_of, share_of, stage_pairs, with_share
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT, waves
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.locate import target_of
from ipa.targets.seldon.section import Shape

Configs = tuple[StageConfig, ...]

SEED, GOAL_RATIO, LONGEST_S = 5, 0.20, 240.0
REPLICAS = (1, 2, 3, 4, 6, 8)
CORES, BATCH_SIZES = (0.1, 0.2, 0.25), (1, 2, 4)
LOOK_S = 0.1
# After so many changes of one configuration, and again after each nine, come parts side by side.
FIRST_PARTS, PARTS_EVERY = 4, 9
# Starts of the pipeline whose median is the readiness.
STARTS = 3
KEYS = ("variant", "batch_size", "cores", "replicas")


@dataclass(frozen=True, slots=True)
class Timed:
    """One change: what changed, the waves it needs, and how long it took."""

    kind: str
    before: str
    after: str
    waves: int
    took_s: float


def wanted_of(pipeline: Pipeline, first: Configs, count: int) -> Iterator[tuple[str, Configs]]:
    """So many configurations, each different from the one before, and in what it differs.

    The last stage changes in one or several ways; of two parts both stages of the second one are new.
    """
    rng = random.Random(SEED)
    kinds: list[tuple[str, Configs]] = []
    alone, plain = first, 0
    while len(kinds) < count:
        keys = rng.sample(KEYS, rng.choice((1, 1, 2, 3)))
        config = alone[-1]
        for key in keys:
            others = [it for it in choices_of(pipeline, key) if it != getattr(config, key)]
            config = replace(config, **{key: rng.choice(others)})
        alone, plain = (*alone[:-1], config), plain + 1
        kinds.append((", ".join(key for key in KEYS if key in keys), alone))
        if plain % PARTS_EVERY == FIRST_PARTS:
            other = tuple(another(pipeline, config, rng) for config in alone)
            kinds.append(("parts, a second part", in_order([alone, with_share(other, 0)])))
            kinds.append(("parts, shares", in_order([with_share(alone, 30), with_share(other, 70)])))
            kinds.append(("parts, left alone", other))
            alone = other
    yield from kinds[:count]


def choices_of(pipeline: Pipeline, key: str) -> Sequence[Any]:
    """The bounds of the last stage: a variant, batch size, cores or replicas."""
    variants = [variant.name for variant in pipeline.stages[-1].variants]
    return {"variant": variants, "batch_size": BATCH_SIZES, "cores": CORES, "replicas": REPLICAS}[key]


def another(pipeline: Pipeline, config: StageConfig, rng: random.Random) -> StageConfig:
    """A configuration of the stage with another variant."""
    names = [variant.name for variant in pipeline.stage(config.stage).variants]
    return replace(config, variant=rng.choice([name for name in names if name != config.variant]))


def waves_of(before: Configs, after: Configs) -> int:
    """The starts that a change waits for, one after the other: those of its slowest stage.

    A part that is new starts all its replicas at once.
    """
    pairs = stage_pairs(before, after)
    return max(1 if old is None else waves(old, new, DEPLOYMENT) for old, new in pairs)


def run(pipeline: Pipeline, workload: Workload, kind: str, wanted: Configs) -> Timed:
    """Write one change and wait for it. RuntimeError if it is not ready in time."""
    state = workload.read(pipeline)
    now = tuple(stage.config for stage in state.stages)
    change = Change(f"c{time.monotonic_ns()}", pipeline.name, state.revision, now, wanted, LONGEST_S)
    began_s = time.monotonic()
    workload.write(pipeline, change)
    until(
        lambda: workload.rollout(pipeline, change).phase is RolloutPhase.READY,
        f"{words_of(wanted)}: not ready",
    )
    return Timed(kind, words_of(now), words_of(wanted), waves_of(now, wanted), time.monotonic() - began_s)


def words_of(configs: Configs) -> str:
    """The configurations in words: of one alone those of the last stage, which is what changes."""
    parts = parts_of(configs)
    if len(parts) == 1:
        return str(configs[-1])
    return "; ".join(f"{share_of(part)} % {part[-1]}" for part in parts)


def readiness_s(here: SeldonHere, pipeline: Pipeline, workload: Workload, configs: Configs) -> float:
    """The median time from the creation of the pipeline until it is ready. It is left running."""
    took_s = []
    for number in range(STARTS):
        if number:
            remove(here, pipeline)
        began_s = time.monotonic()
        here.create(pipeline, configs)
        until(lambda: workload.read(pipeline).settled, "the pipeline: not ready")
        took_s.append(time.monotonic() - began_s)
    return median(took_s)


def remove(here: SeldonHere, pipeline: Pipeline) -> None:
    """Remove the pipeline's object; return once its pods have ended."""
    target = target_of(pipeline)
    with here.kube.store.lock:
        here.kube.store.delete("seldondeployments", target.namespace, target.name)
    until(lambda: not here.node.names, "the pods: not ended")


def until(holds: Callable[[], bool], what: str) -> None:
    """Return once it holds. RuntimeError if that takes too long."""
    until_s = time.monotonic() + LONGEST_S
    while not holds():
        if time.monotonic() > until_s:
            raise RuntimeError(f"{what} within {LONGEST_S:g} s")
        time.sleep(LOOK_S)


def error_ratios(timed: Sequence[Timed], ready_s: float) -> list[float]:
    """By what part the prediction of each change that starts replicas is off."""
    return [it.waves * ready_s / it.took_s - 1 for it in timed if it.waves]


def main() -> int:
    """Print and write them. Exit code 1: the median error is above the goal."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo_seldon.changes", description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--ready-s", type=float, default=4.0, help="a pod is probed from then on")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-seldon"))
    options = parser.parse_args()
    bounds = {"bounds": {"cores": 8, "max_replicas": max(REPLICAS), "batch_sizes": [*BATCH_SIZES]}}
    folder = options.out / "changes"
    pipeline = pipeline_in(Shape.SINGLE, PIPELINES / "digits" / "pipeline.yaml", folder / "pipelines", bounds)
    first = tuple(StageConfig(stage.name, stage.variants[0].name, 1, 0.25, 1) for stage in pipeline.stages)
    with seldon_here(folder) as here:
        here.node.initial_delay_s = options.ready_s
        client = KubeClient.from_kubeconfig(str(here.kubeconfig), 5.0)
        workload = KubeWorkload(client, layout_of, "changes")
        ready_s = readiness_s(here, pipeline, workload, first)
        timed = []
        for kind, wanted in wanted_of(pipeline, first, options.count):
            timed.append(run(pipeline, workload, kind, wanted))
            print(json.dumps(asdict(timed[-1])), flush=True)
        client.close()
    errors = error_ratios(timed, ready_s)
    middle = median(abs(it) for it in errors)
    table = Table(title=f"Changes on Seldon; a pod is ready after {ready_s:.1f} s", title_justify="left")
    for name in ("change", "from", "to", "waves", "predicted, s", "took, s"):
        table.add_column(name, justify="left" if name in ("change", "from", "to") else "right")
    for it in timed:
        row = (it.kind, it.before, it.after, f"{it.waves}", f"{it.waves * ready_s:.1f}", f"{it.took_s:.1f}")
        table.add_row(*row)
    console = Console(highlight=False, width=140)
    console.print(table)
    console.print(f"median error {middle:.1%} of {len(errors)} changes that start replicas")
    path = options.out / "changes.json"
    path.write_text(json.dumps([asdict(it) for it in timed], indent=1) + "\n")
    return 0 if middle <= GOAL_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
