"""Random plan changes while an application sends: none may cost it a request.

Each change draws variant, batch size, cores and replicas of one stage or of all, is written, waited for, and
read back. The figures go to runs/demo-seldon/under-load.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.demo_seldon.changes import BATCH_SIZES, CORES, KEYS, SEED, run, words_of
from experiments.demo_seldon.cluster import SeldonHere, entry_url, pipeline_in, seldon_here, until_ready
from experiments.live.cells import PIPELINES
from ipa.adapters.kube.client import KubeClient
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.deployments.target import DEPLOYMENTS
from ipa.targets.seldon.target import SELDON
from tests.fakes.kube.caller import ANSWERED, FAILED
from tests.fakes.kube.names import OWN

CHOICES: dict[str, Sequence[Any]] = {"batch_size": BATCH_SIZES, "cores": CORES, "replicas": (1, 2, 3)}
# Of the application, which has an address of its own.
ADDRESS, END_S = "127.0.0.9", 60.0


@dataclass(frozen=True, slots=True)
class UnderLoad:
    """What became of the changes, and of the requests meanwhile."""

    shape: str
    changes: int
    seconds: float
    answered: int
    failed: tuple[str, ...]
    # Of changes that are not what was asked for, once they were said to be ready.
    misread: tuple[str, ...]


def wanted_of(
    pipeline: Pipeline, first: tuple[StageConfig, ...], count: int
) -> Iterator[tuple[StageConfig, ...]]:
    """So many configurations, each different from the one before in some keys of one stage, or of all."""
    rng, now = random.Random(SEED), list(first)
    for _ in range(count):
        before = list(now)
        while now == before:
            for at in range(len(now)) if rng.random() < 0.3 else [rng.randrange(len(now))]:
                names = [variant.name for variant in pipeline.stage(now[at].stage).variants]
                keys = rng.sample(KEYS, rng.choice((1, 1, 2, 4)))
                drawn = {key: rng.choice(CHOICES.get(key, names)) for key in keys}
                now[at] = replace(now[at], **drawn)
        yield tuple(now)


@contextmanager
def application(here: SeldonHere, pipeline: Pipeline, log: Path) -> Iterator[None]:
    """Requests at a constant rate, from an application of its own process."""
    env = {**os.environ, **here.node.environment, OWN: ADDRESS, "CHAIN": entry_url(pipeline)}
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "tests.fakes.kube.caller"], env=env, stdout=file)
    try:
        yield
    finally:
        process.terminate()
        process.wait(END_S)


def measured(shape: str, count: int, folder: Path) -> UnderLoad:
    """The outcome of so many changes in that shape."""
    # Random plans are late; none of their requests is to be dropped for that.
    keys = {
        "bounds": {"cores": 8, "max_replicas": 3, "batch_sizes": [*BATCH_SIZES]},
        "sla": {"latency": "9s", "percentile": 99},
    }
    pipeline = pipeline_in(shape, PIPELINES / "digits" / "pipeline.yaml", folder / "pipelines", keys)
    target = DEPLOYMENTS if shape == DEPLOYMENTS.name else SELDON
    first = tuple(StageConfig(stage.name, stage.variants[0].name, 1, 0.25, 1) for stage in pipeline.stages)
    misread, log = list[str](), folder / "application.log"
    with seldon_here(folder) as here:
        here.create(pipeline, first)
        until_ready(here, pipeline)
        client = KubeClient.from_kubeconfig(str(here.kubeconfig), 5.0)
        workload = target.workload_of(client, "changes")
        with application(here, pipeline, log):
            began_s = time.monotonic()
            for number, wanted in enumerate(wanted_of(pipeline, first, count)):
                run(pipeline, workload, "random", wanted)
                read = tuple(stage.config for stage in workload.read(pipeline).stages)
                if read != wanted:
                    misread.append(f"{words_of(wanted)}: read as {words_of(read)}")
                if number % 50 == 0:
                    print(f"{number} changes, {time.monotonic() - began_s:.0f} s", flush=True)
            took_s = time.monotonic() - began_s
        client.close()
    said = log.read_text().splitlines()
    failed = tuple(line for line in said if line.startswith(FAILED))
    (answered,) = (int(line.partition(" ")[2]) for line in said if line.startswith(ANSWERED))
    return UnderLoad(shape, count, took_s, answered, failed, tuple(misread))


def main() -> int:
    """Print and write them. Exit code 1: a request was lost, or a change was read back otherwise."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo_seldon.under_load", description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--shapes", default="deployments", help="by comma, of deployments and split")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-seldon"))
    options = parser.parse_args()
    console, made = Console(highlight=False, width=140), list[UnderLoad]()
    for shape in options.shapes.split(","):
        made.append(one := measured(shape, options.count, options.out / "under-load" / shape))
        lost, misread = len(one.failed), len(one.misread)
        console.print(
            f"{shape}: {one.changes} changes in {one.seconds:.0f} s, {misread} of them read back otherwise; "
            f"{one.answered + lost} requests, {lost} lost"
        )
    path = options.out / "under-load.json"
    path.write_text(json.dumps([asdict(each) for each in made], indent=1) + "\n")
    return 1 if any(one.failed or one.misread for one in made) else 0


if __name__ == "__main__":
    sys.exit(main())
