"""Runs pipelines on Seldon on this machine in both shapes; writes runs/demo-seldon/summary.json."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.demo.__main__ import SEED, machine
from experiments.demo.live import LiveTable
from experiments.demo.load import SHAPE, arrivals
from experiments.demo.service import Service
from experiments.demo.summary import quantile_s, read_requests
from experiments.demo_seldon.answers import wrong_answers
from experiments.demo_seldon.cluster import (
    SeldonHere,
    pipeline_in,
    seldon_here,
    start_sending,
    until_ready,
)
from experiments.demo_seldon.figures import applied, stage_latencies_s
from experiments.fidelity.case import bodies_of, scores_of
from ipa.files import load_profiles
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.targets.deployments.target import DEPLOYMENTS
from ipa.targets.seldon.section import Shape
from ipa.targets.seldon.target import SELDON
from tests.fakes.seldon_core import ENVIRONMENT, VERSION

PIPELINES, PROFILES = Path("pipelines"), Path("profiles")
# The lowest and the highest requests a second.
RATES_RPS = {"ocr": (1.5, 7.5), "signals": (3.0, 15.0), "digits": (6.0, 30.0), "text": (3.0, 15.0)}
PORT = 8097
# Queues, routers and orchestrators count on Seldon: the replicas have as much as in `make demo`.
BOUNDS = {"cores": 1.75, "transition_cores": 3.5}
# The pipeline whose stages are Seldon's own microservices, which have whole cores: nothing here gives them a
# share of one, as a container's limit does.
MICROSERVICES = "signals"
MICROSERVICE_BOUNDS = {"cores": 3.25, "transition_cores": 6.5, "batch_sizes": [1]}
QUANTILES = (0.5, 0.99)
# After a change, until its pods serve alone; and the least time that says something of latencies.
SETTLE_S, LEAST_S = 10.0, 5.0
# At a constant rate a configuration is found within five minutes and then kept.
FINDING_S, STEADY_S = 300.0, 1800.0


@dataclass(frozen=True, slots=True)
class Load:
    """Requests whose rate rises from the lowest to the highest and falls, for so long."""

    low_rps: float
    high_rps: float
    seconds: float


def run(
    name: str, shape: str, load: Load, folder: Path, console: Console, port: int = PORT, python: str = ""
) -> dict[str, Any]:
    """The figures of a pipeline in one shape, with the service at that port.

    `python` is an interpreter with Seldon's microservice, if its stages need it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    source = PIPELINES / name / "pipeline.yaml"
    bounds = {"min_replicas": 1, "max_replicas": 6, "batch_sizes": [1, 2, 4, 8]}
    own = MICROSERVICE_BOUNDS if python else BOUNDS
    pipeline = pipeline_in(shape, source, folder / "pipelines", {"bounds": {**bounds, **own}})
    profiles = load_profiles(PROFILES, name)
    target = DEPLOYMENTS if shape == DEPLOYMENTS.name else SELDON
    shaped = target.shape(pipeline, profiles)
    profiled = Profiled(PlannerInputs(shaped, profiles, solver="exact"))
    first = profiled.plan(shaped, load.low_rps).configs
    with seldon_here(folder, python) as here:
        here.create(pipeline, first)
        environment = {**here.settings, "IPA_PIPELINES_DIR": str(folder / "pipelines"), "IPA_HORIZON_S": "20"}
        with Service(
            folder,
            port,
            ["--mode", "active"],
            pipeline=name,
            target=target.name,
            environment=environment,
        ) as service:
            service.wait_ready()
            until_ready(here, pipeline)
            console.print(f"[bold]{name}, {shape}[/bold]: page at {service.url}", highlight=False)
            began_s, at_s = play(here, service, pipeline, folder, load, console)
            decisions = service.decisions()
            (folder / "decisions.json").write_text(json.dumps(decisions, indent=1) + "\n")
            ended_s = here.node.monotonic()
            stages = steady_latencies(here, pipeline, shape, profiled, decisions, at_s, began_s, load)
        events = list(here.node.events)
    return summary(shape, pipeline, folder, decisions, at_s, events, began_s, ended_s, stages)


def play(
    here: SeldonHere,
    service: Service,
    pipeline: Pipeline,
    folder: Path,
    load: Load,
    console: Console,
) -> tuple[float, dict[int, float]]:
    """Send the load. Return when it began, and when each tick was seen, on the clock of the node."""
    times_s = arrivals(SEED, load.seconds, load.low_rps, load.high_rps)
    first_s: dict[int, float] = {}
    began_s = here.node.monotonic()
    sender = start_sending(here, pipeline, bodies_of(pipeline.name), times_s, folder)
    try:
        with LiveTable(console, str(pipeline.name), load.seconds) as table:
            while sender.poll() is None:
                status = service.status()
                now_s = here.node.monotonic()
                first_s.setdefault(status["tick"], now_s)
                table.show(now_s - began_s, status)
                time.sleep(0.5)
    finally:
        sender.terminate()
        sender.wait()
    if sender.returncode != 0:
        raise RuntimeError(f"the sender ended with exit code {sender.returncode}")
    return began_s, first_s


def steady_latencies(
    here: SeldonHere,
    pipeline: Pipeline,
    shape: str,
    profiled: Profiled,
    decisions: Sequence[Mapping[str, Any]],
    at_s: Mapping[int, float],
    began_s: float,
    load: Load,
) -> list[dict[str, Any]]:
    """Predicted and observed latencies of the stages, at the lowest rate first and at the highest."""
    rows = []
    offset_s = time.time() - here.node.monotonic()
    for (start, ratio), (end, _) in ((SHAPE[0], SHAPE[1]), (SHAPE[2], SHAPE[3])):
        from_s, to_s = began_s + start * load.seconds, began_s + end * load.seconds
        rate_rps = load.low_rps + (load.high_rps - load.low_rps) * ratio
        configs = configs_at(decisions, at_s, to_s)
        # What an earlier configuration did says nothing of this one.
        from_s = max(from_s, changed_s(decisions, at_s, to_s) + SETTLE_S)
        plan = profiled.describe(configs, rate_rps) if configs and to_s - from_s >= LEAST_S else None
        observed = (
            {
                each: stage_latencies_s(
                    here.prometheus_url, pipeline, shape, each, to_s - from_s, to_s + offset_s
                )
                for each in QUANTILES
            }
            if plan
            else {}
        )
        for stage in plan.stages if plan else ():
            rows.append(
                {
                    "rate_rps": rate_rps,
                    "stage": stage.stage,
                    "config": str(stage.config),
                    "predicted_s": stage.latency_s + stage.queue_delay_s,
                    "observed_s": observed[0.99].get(stage.stage),
                    "observed_median_s": observed[0.5].get(stage.stage),
                }
            )
    return rows


def changed_s(decisions: Sequence[Mapping[str, Any]], at_s: Mapping[int, float], now_s: float) -> float:
    """When the last decision before that moment was seen that changed anything; 0 if none did."""
    applied_in = {it["tick"] for it in decisions if it["action"] == "apply"}
    return max(
        (each_s for tick, each_s in at_s.items() if each_s < now_s and tick in applied_in), default=0.0
    )


def configs_at(
    decisions: Sequence[Mapping[str, Any]], at_s: Mapping[int, float], now_s: float
) -> tuple[StageConfig, ...]:
    """The configurations that the last decision before that moment wanted."""
    newest_tick = max((tick for tick, each_s in at_s.items() if each_s < now_s), default=0)
    before = [it for it in decisions if it["tick"] <= newest_tick]
    keys = ("stage", "variant", "batch_size", "cores", "replicas")
    return tuple(StageConfig(*(it[key] for key in keys)) for it in before[-1]["configs"]) if before else ()


def summary(
    shape: str,
    pipeline: Pipeline,
    folder: Path,
    decisions: Sequence[Mapping[str, Any]],
    at_s: Mapping[int, float],
    events: Sequence[Any],
    began_s: float,
    ended_s: float,
    stages: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The figures of a run."""
    requests = read_requests(folder / "requests.jsonl")
    outcomes = Counter(it["outcome"] for it in requests)
    answered = [it for it in requests if it["outcome"] == "answered"]
    answers = [(it["page"], it["answer"]) for it in answered]
    latencies = [it["latency_s"] for it in answered]
    sla_s = pipeline.sla.latency_s
    changes = applied(decisions, at_s, events, ended_s)
    return {
        "pipeline": pipeline.name,
        "shape": str(shape),
        "sla_s": sla_s,
        "sent": len(requests),
        "answered": outcomes["answered"],
        "dropped": outcomes["dropped"],
        "failed": outcomes["failed"],
        "failures": dict(
            Counter(f"{it['status']} {it['detail'][:80]}" for it in requests if it["outcome"] == "failed")
        ),
        "wrong": wrong_answers(pipeline, answers),
        "latency_p50_s": quantile_s(latencies, 0.5),
        "latency_p99_s": quantile_s(latencies, 0.99),
        "within_sla_ratio": sum(it <= sla_s for it in latencies) / len(requests),
        "accuracy": sum(scores_of(pipeline.name, answers)) / max(1, len(answers)),
        "decisions_by_reason": dict(Counter(it["reason"] for it in decisions)),
        "changes": [{**asdict(it), "at_s": it.at_s - began_s} for it in changes],
        "changes_after_5_min": sum(it.at_s - began_s > FINDING_S for it in changes),
        "stages": list(stages),
    }


def show(runs: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the figures of a pipeline."""
    served = f", seldon-core {VERSION} microservices" if runs[0]["pipeline"] == MICROSERVICES else ""
    place = "Seldon" if any(each["shape"] != DEPLOYMENTS.name for each in runs) else "plain Deployments"
    title = f"{runs[0]['pipeline']} on {place}{served}, SLA {runs[0]['sla_s']:g} s"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for each in runs:
        table.add_column(each["shape"], justify="right")
    rows = (
        ("requests sent", "sent", "{}"),
        ("answered", "answered", "{}"),
        ("dropped for their deadline", "dropped", "{}"),
        ("failed", "failed", "{}"),
        ("wrong answers", "wrong", "{}"),
        ("latency p50, s", "latency_p50_s", "{:.3f}"),
        ("latency p99, s", "latency_p99_s", "{:.3f}"),
        ("share within SLA", "within_sla_ratio", "{:.1%}"),
        ("measured accuracy of the answers", "accuracy", "{:.3f}"),
        ("changes after the first five minutes", "changes_after_5_min", "{}"),
    )
    for name, key, words in rows:
        table.add_row(name, *(words.format(each[key]) for each in runs))
    console.print(table)
    for each in runs:
        pods = Table(title=f"{each['shape']}: changes and pods", title_justify="left")
        names = ("stage pods started", "stage pods taken away", "others taken away", "containers ended")
        for name in ("change", *names):
            pods.add_column(name, justify="left" if name == "change" else "right")
        for change in each["changes"]:
            counts = [change[key] for key in ("stage_started", "stage_taken", "front_taken", "ended")]
            pods.add_row(change["kind"] or "none", *map(str, counts))
        console.print(pods)
        latencies = Table(title=f"{each['shape']}: latency of stages", title_justify="left")
        for name in ("rate, rps", "stage", "p99 predicted, s", "p99 observed, s", "p50 observed, s"):
            latencies.add_column(name, justify="left" if name == "stage" else "right")
        for it in each["stages"]:
            numbers = (it["predicted_s"], it["observed_s"], it["observed_median_s"])
            shown = ("" if one is None else f"{one:.3f}" for one in numbers)
            latencies.add_row(f"{it['rate_rps']:g}", f"{it['config']}", *shown)
        console.print(latencies)


def not_here(name: str, shape: str, console: Console) -> tuple[str, str]:
    """The interpreter with Seldon's microservice if the pipeline needs one, and why it cannot run so here."""
    if name != MICROSERVICES:
        return "", ""
    if shape != Shape.SINGLE:
        return "", "our queues do not speak Seldon's own protocol"
    console.print(f"{name}: its stages run in seldon-core {VERSION}, in an environment of its own")
    try:
        return ENVIRONMENT.python(), ""
    except RuntimeError as lacking:
        return "", str(lacking)


def load_of(name: str, options: argparse.Namespace) -> Load:
    """The load that the options ask for."""
    low_rps, high_rps = (options.steady, options.steady) if options.steady else RATES_RPS[name]
    seconds = options.seconds or (STEADY_S if options.steady else 130.0)
    return Load(options.low or low_rps, options.high or high_rps, seconds)


def main() -> int:
    """Run each pipeline in each shape, print and write what came of it."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo_seldon", description=__doc__)
    parser.add_argument(
        "--pipelines", default=f"ocr,{MICROSERVICES}", help=f"by comma, of {', '.join(RATES_RPS)}"
    )
    parser.add_argument("--shapes", default="single,split", help="by comma, of single, split, deployments")
    parser.add_argument("--low", type=float, help="lowest rate, requests a second")
    parser.add_argument("--high", type=float, help="highest rate, requests a second")
    parser.add_argument("--seconds", type=float, help="how long each run takes, 130 by default")
    parser.add_argument(
        "--steady", type=float, metavar="RPS", help="this rate all the time, for half an hour"
    )
    parser.add_argument("--port", type=int, default=PORT, help="of the service")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-seldon"))
    options = parser.parse_args()
    console = Console(highlight=False, width=110)
    started = time.monotonic()
    runs: list[dict[str, Any]] = []
    left_out: list[str] = []
    for name, shape in product(options.pipelines.split(","), options.shapes.split(",")):
        python, why = not_here(name, shape, console)
        if why:
            left_out.append(f"{name}, {shape}: {why}")
            continue
        folder = options.out / name / shape
        runs.append(run(name, shape, load_of(name, options), folder, console, options.port, python))
    for _, each in groupby(runs, lambda it: it["pipeline"]):
        show(list(each), console)
    for words in left_out:
        console.print(f"left out: {words}")
    summary = {"machine": machine(), "runs": runs, "left_out": left_out}
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    console.print(f"{options.out / 'summary.json'}  ({time.monotonic() - started:.0f} s)")
    return 0 if all(each["failed"] == each["wrong"] == 0 for each in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
