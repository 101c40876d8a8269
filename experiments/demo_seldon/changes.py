"""How long changes take on Seldon on this machine, and how long they should; runs/demo-seldon/changes.json.

Every kind of change of a stage: variant, batch size, cores, replicas, and mixtures of them, with 1 to 8
replicas. Predicted are the waves of starts times the time from start to ready, whose median is measured.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from experiments.demo_seldon.cluster import SeldonHere, pipeline_in, seldon_here, until_ready
from experiments.live.cells import PIPELINES
from ipa.adapters.kube.client import connect
from ipa.control.ports import RolloutPhase, Workload
from ipa.model.decision import Change
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT, waves
from ipa.targets.seldon.layouts import KubeWorkload
from ipa.targets.seldon.ownership import OwningClient
from ipa.targets.seldon.section import Shape

SEED, GOAL_RATIO, LONGEST_S = 5, 0.20, 240.0
REPLICAS = (1, 2, 3, 4, 6, 8)
LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Timed:
    """One change: what changed, the waves it needs, and how long it took."""

    kind: str
    before: str
    after: str
    waves: int
    took_s: float


def wanted_of(pipeline: Pipeline, count: int) -> Iterator[StageConfig]:
    """So many configurations of the last stage, each different from the one before in one or several ways."""
    rng = random.Random(SEED)
    stage = pipeline.stages[-1]
    variants = [variant.name for variant in stage.variants]
    config = StageConfig(stage.name, variants[0], 1, 0.25, 1)
    for _ in range(count):
        keys = rng.sample(("variant", "batch_size", "cores", "replicas"), rng.choice((1, 1, 2, 3)))
        before = config
        for key in keys:
            choices: dict[str, Sequence[object]] = {
                "variant": variants,
                "batch_size": [1, 2, 4],
                "cores": [0.1, 0.2, 0.25],
                "replicas": REPLICAS,
            }
            others = [it for it in choices[key] if it != getattr(before, key)]
            config = replace(config, **{key: rng.choice(others)})  # type: ignore[arg-type]
        yield config


def run(here: SeldonHere, pipeline: Pipeline, workload: Workload, wanted: StageConfig) -> Timed:
    """Write one change and wait for it. RuntimeError if it is not ready in time."""
    state = workload.read(pipeline)
    now = tuple(stage.config for stage in state.stages)
    configs = (*now[:-1], wanted)
    change = Change(f"c{time.monotonic_ns()}", pipeline.name, state.revision, now, configs, LONGEST_S)
    began_s = time.monotonic()
    workload.write(pipeline, change)
    while workload.rollout(pipeline, change).phase is not RolloutPhase.READY:
        if time.monotonic() - began_s > LONGEST_S:
            raise RuntimeError(f"{wanted} was not ready within {LONGEST_S:g} s")
        time.sleep(LOOK_S)
    took_s = time.monotonic() - began_s
    keys = ("variant", "batch_size", "cores", "replicas")
    kind = ", ".join(key for key in keys if getattr(now[-1], key) != getattr(wanted, key))
    return Timed(kind, str(now[-1]), str(wanted), waves(now[-1], wanted, DEPLOYMENT), took_s)


def start_s(here: SeldonHere) -> float:
    """The median time from the start of a stage's pod to its readiness."""
    started = {it.pod: it.at_s for it in here.node.events if it.what == "started"}
    ready = [
        it.at_s - started[it.pod]
        for it in here.node.events
        if it.what == "ready" and not it.app.endswith("svc-orch")
    ]
    return median(ready)


def error_ratios(found: Sequence[Timed], ready_s: float) -> list[float]:
    """By what part the prediction of each change that starts replicas is off."""
    return [it.waves * ready_s / it.took_s - 1 for it in found if it.waves]


def main() -> int:
    """Print and write them. Exit code 1: the median error is above the goal."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo_seldon.changes", description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--ready-s", type=float, default=4.0, help="a pod is probed from then on")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-seldon"))
    options = parser.parse_args()
    bounds = {"bounds": {"cores": 8, "max_replicas": 8, "batch_sizes": [1, 2, 4]}}
    folder = options.out / "changes"
    pipeline = pipeline_in(Shape.SINGLE, PIPELINES / "digits" / "pipeline.yaml", folder / "pipelines", bounds)
    first = tuple(StageConfig(stage.name, stage.variants[0].name, 1, 0.25, 1) for stage in pipeline.stages)
    with seldon_here(folder) as here:
        here.node.initial_delay_s = options.ready_s
        client = connect(str(here.kubeconfig), 5.0)
        workload = KubeWorkload(OwningClient(client, "changes"))
        here.create(pipeline, first)
        until_ready(here, pipeline)
        found = []
        for wanted in wanted_of(pipeline, options.count):
            found.append(run(here, pipeline, workload, wanted))
            print(json.dumps(asdict(found[-1])), flush=True)
        ready_s = start_s(here)
        client.close()
    errors = error_ratios(found, ready_s)
    middle = median(abs(it) for it in errors)
    table = Table(title=f"Changes on Seldon; a pod is ready after {ready_s:.1f} s", title_justify="left")
    for name in ("change", "from", "to", "waves", "predicted, s", "took, s"):
        table.add_column(name, justify="left" if name in ("change", "from", "to") else "right")
    for it in found:
        row = (it.kind, it.before, it.after, f"{it.waves}", f"{it.waves * ready_s:.1f}", f"{it.took_s:.1f}")
        table.add_row(*row)
    console = Console(highlight=False, width=140)
    console.print(table)
    console.print(f"median error {middle:.1%} of {len(errors)} changes that start replicas")
    path = options.out / "changes.json"
    path.write_text(json.dumps([asdict(it) for it in found], indent=1) + "\n")
    return 0 if middle <= GOAL_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
