"""Runs a cell on real processes: the service, its requests, and the neighbours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.demo.service import Service
from experiments.demo.summary import read_requests
from experiments.fidelity.case import bodies_of, scores_of
from experiments.live.calibration import calibrate
from experiments.live.figures import BUSY, CHEAPEST, CellRecord
from experiments.live.programme import Programme
from experiments.neighbours import neighbours
from ipa.bootstrap.targets import measurement_bench
from ipa.files import load_pipeline, load_profiles
from ipa.files.forms import dump_yaml
from ipa.files.pipelines import pipeline_to_mapping
from ipa.files.profiles import dump_profile
from ipa.forecast.arrivals import request_times, steps
from ipa.model.errors import InfeasibleError
from ipa.model.pipeline import Pin, Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.model.profile import Slowdowns, StageProfile
from ipa.optimize.deadline import Deadline
from ipa.optimize.relaxations import relaxations
from ipa.optimize.solve import solve
from ipa.policies.base import pinned
from ipa.policies.planning import planning_problem
from ipa.profiling.measure import foreign_to
from ipa.service.measuring import bench_workload
from ipa.targets.local.target import LOCAL

PIPELINES, PROFILES = Path("pipelines"), Path("profiles")
BEST = "static-best"
STATIC = (CHEAPEST, BEST)
# Rivals as plug-ins; Compass has the machines of the largest plan.
INFAAS, COMPASS = "experiments.infaas:infaas", "experiments.compass:compass"
NEIGHBOURS = 2
# No pipeline of this repository carries that on one machine.
BEYOND_RPS = 1e5
PLANNING_S = 30.0
# Probes of the capacity: the rate doubles while PROBED_RATIO of its requests are in time, then is bisected.
PROBE_S, PROBED_RATIO, HALVINGS = 3, 0.9, 1
FIRST_PROBE_RPS, FIRST_PROBE_RATIO = 16.0, 1 / 4
PORT = 8099
SEED = 11


@dataclass(frozen=True, slots=True)
class Subject:
    """A pipeline, its profiles here, and its largest plan: that of the highest rate that any plan carries."""

    pipeline: Pipeline
    profiles: Mapping[str, StageProfile]
    largest: Plan
    profiles_dir: Path = PROFILES
    slowdowns: Slowdowns = ()

    @property
    def name(self) -> str:
        """The name of the pipeline."""
        return self.pipeline.name

    @property
    def sla_s(self) -> float:
        """The SLA of the pipeline."""
        return self.pipeline.sla.latency_s


def subject_of(name: str) -> Subject:
    """The pipeline of that name with its profiles as they are."""
    profiles = load_profiles(PROFILES, name)
    pipeline = LOCAL.shape(load_pipeline(PIPELINES / name / "pipeline.yaml"), profiles)
    return Subject(pipeline, profiles, _largest_plan(pipeline, profiles))


def calibrated_subject(name: str, profiles_dir: Path, limit_s: float) -> Subject:
    """The pipeline of that name with profiles of this machine, calibrated once, so that no cell has to.

    They are written into `profiles_dir`. Errors: those of a model server that does not start.
    """
    subject = subject_of(name)
    with measurement_bench(subject.pipeline) as bench:
        foreign = foreign_to(bench.hardware, subject.profiles.values())
        items = {it.stage: bench_workload(PIPELINES, name, it.stage, SEED).items for it in foreign}
        until_s = time.monotonic() + limit_s
        calibration = calibrate(bench, foreign, items, until_s, time.monotonic)
        profiles = {
            stage: replace(profile.slowed(calibration.slowdowns), hardware=bench.hardware)
            for stage, profile in subject.profiles.items()
        }
    (profiles_dir / name).mkdir(parents=True)
    for stage, profile in profiles.items():
        (profiles_dir / name / f"{stage}.yaml").write_text(dump_profile(profile))
    largest = _largest_plan(subject.pipeline, profiles)
    return Subject(subject.pipeline, profiles, largest, profiles_dir, calibration.slowdowns)


def _largest_plan(pipeline: Pipeline, profiles: Mapping[str, StageProfile]) -> Plan:
    problem = planning_problem(pipeline, profiles, BEYOND_RPS)
    remedies = [it for it in relaxations(problem, Deadline(PLANNING_S)) if it.kind == "rate"]
    if not remedies:
        raise InfeasibleError(f"no plan of {pipeline.name!r} carries any rate")
    return solve(remedies[0].problem, explain=False)


def best_plan(subject: Subject, rate_rps: float) -> Plan:
    """The most accurate plan that carries the rate, whatever it costs. InfeasibleError: there is none."""
    pipeline = subject.pipeline
    costless = {name: replace(it, alpha=1.0, beta=1e-6) for name, it in pipeline.objectives.items()}
    problem = planning_problem(replace(pipeline, objectives=costless), subject.profiles, rate_rps)
    plan = solve(problem, explain=False)
    if not plan.stages:
        raise InfeasibleError(f"no plan of {pipeline.name!r} carries {rate_rps:.3g} rps")
    return plan


def measured_capacity_rps(subject: Subject, world: str, folder: Path) -> float:
    """The most requests a second that the largest plan answered in time, over the rates that were tried.

    RuntimeError if it answers nothing in time.
    """
    with ExitStack() as stack:
        service = stack.enter_context(_served(subject, CHEAPEST, subject.largest.configs, 1.0, folder))
        stack.enter_context(neighbours(NEIGHBOURS if world == BUSY else 0))

        def in_time_rps(rate_rps: float) -> tuple[float, bool]:
            times_s = request_times(steps((rate_rps, PROBE_S)), seed=SEED)
            out = folder / f"probe-{rate_rps:.4g}.jsonl"
            _send(subject, service, times_s.tolist(), out)
            requests = read_requests(out)
            in_time = sum(it["outcome"] == "answered" and it["latency_s"] <= subject.sla_s for it in requests)
            return in_time / PROBE_S, in_time >= PROBED_RATIO * len(requests)

        def tried_rps(rate_rps: float) -> tuple[float, bool]:
            # A moment's disturbance of three seconds is not the capacity.
            first = in_time_rps(rate_rps)
            return first if first[1] else max(first, in_time_rps(rate_rps), key=lambda it: (it[1], it[0]))

        return most_in_time_rps(tried_rps, min(FIRST_PROBE_RPS, FIRST_PROBE_RATIO * subject.largest.rate_rps))


def most_in_time_rps(probe: Callable[[float], tuple[float, bool]], first_rps: float) -> float:
    """The most that a probe answered in time; `probe` of a rate returns that, and if it was carried.

    RuntimeError if no probe of at least a hundredth of `first_rps` is carried.
    """
    rate_rps, (most_rps, is_carried) = first_rps, probe(first_rps)
    step = 2.0 if is_carried else 0.5
    while rate_rps >= first_rps / 100:
        before_rps, was_carried = rate_rps, is_carried
        rate_rps *= step
        answered_rps, is_carried = probe(rate_rps)
        most_rps = max(most_rps, answered_rps)
        if is_carried != was_carried:
            break
    else:
        raise RuntimeError(f"the largest plan carries less than {rate_rps:.3g} rps")
    low_rps, high_rps = sorted((before_rps, rate_rps))
    for _ in range(HALVINGS):
        middle_rps = (low_rps + high_rps) / 2
        answered_rps, is_carried = probe(middle_rps)
        most_rps = max(most_rps, answered_rps)
        low_rps, high_rps = (middle_rps, high_rps) if is_carried else (low_rps, middle_rps)
    return most_rps


def run_cell(subject: Subject, world: str, policy: str, programme: Programme, folder: Path) -> CellRecord:
    """The files of the programme. Errors: those of planning; RuntimeError if the service does not start."""
    configs: Sequence[StageConfig] = ()
    if policy in (CHEAPEST, COMPASS):
        configs = subject.largest.configs
    elif policy == BEST:
        configs = best_plan(subject, programme.least_rps).configs
    with ExitStack() as stack:
        service = stack.enter_context(_served(subject, policy, configs, programme.least_rps, folder))
        stack.enter_context(neighbours(NEIGHBOURS if world == BUSY else 0))
        paid = service.counter("ipa_allocated_core_seconds_total")
        first = len(service.decisions())
        out = folder / "requests.jsonl"
        times_s = programme.times_s()
        load_average = os.getloadavg()[0]
        _send(subject, service, times_s, out)
        core_seconds = service.counter("ipa_allocated_core_seconds_total") - paid
        decisions = service.decisions()[first:]
    (folder / "decisions.json").write_text(json.dumps(decisions, indent=1) + "\n")
    requests = read_requests(out)
    return CellRecord(requests, _scores(subject, requests), decisions, core_seconds, load_average)


@contextmanager
def _served(
    subject: Subject, policy: str, configs: Sequence[StageConfig], rate_rps: float, folder: Path
) -> Iterator[Service]:
    """The service with that policy, ready. A static one has a copy of the pipeline in which all is pinned.

    Compass has one in which all but the variants is.
    """
    arguments = ["--mode", "active", "--policy", "static" if policy in STATIC else policy]
    environment = {"IPA_PROFILES_DIR": str(subject.profiles_dir)}
    if configs:
        place = folder / "pipelines"
        environment["IPA_PIPELINES_DIR"] = str(
            pinned_folder(subject.pipeline, configs, place, are_variants_free=policy == COMPASS)
        )
    with Service(
        folder, PORT, [*arguments, "--rate", f"{rate_rps:g}"], pipeline=subject.name, environment=environment
    ) as service:
        service.wait_ready()
        yield service


def pinned_folder(
    pipeline: Pipeline, configs: Sequence[StageConfig], folder: Path, *, are_variants_free: bool = False
) -> Path:
    """The folder with a copy of the pipeline in which all is pinned, without what other targets ask for."""
    place = folder / pipeline.name
    place.mkdir(parents=True)
    (place / "pipeline.yaml").write_text(
        _yaml(pinned_to(pipeline, configs, are_variants_free=are_variants_free))
    )
    return folder


def pinned_to(
    pipeline: Pipeline, configs: Sequence[StageConfig], *, are_variants_free: bool = False
) -> Pipeline:
    """The pipeline with each stage pinned to its configuration, or to all of it but the variant."""
    pins = [
        (
            it.stage,
            Pin(None if are_variants_free else it.variant, it.batch_size, it.cores, it.replicas),
        )
        for it in configs
    ]
    return pinned(pipeline, pins)


def _yaml(pipeline: Pipeline) -> str:
    """The text of a pipeline without what other targets ask for."""
    mapping = pipeline_to_mapping(pipeline)
    for section in (
        mapping,
        *mapping["stages"],
        *(it for stage in mapping["stages"] for it in stage["variants"]),
    ):
        for key in ("seldon", "container"):
            section.pop(key, None)
    return dump_yaml(mapping)


def _send(subject: Subject, service: Service, times_s: Sequence[float], out: Path) -> None:
    bodies, times = out.parent / "bodies.json", out.with_suffix(".times.json")
    # The sender is a process of few imports, so that it starts at once.
    if not bodies.exists():
        bodies.write_text(json.dumps([body.decode() for body in bodies_of(subject.name)]))
    times.write_text(json.dumps(list(times_s)))
    command = [sys.executable, "-m", "experiments.live.traffic", "--url", service.router_url()]
    command += ["--bodies", str(bodies), "--times", str(times), "--out", str(out)]
    subprocess.run(command, check=True)


def _scores(subject: Subject, requests: Sequence[Mapping[str, Any]]) -> list[float]:
    answered = [(it["page"], it["answer"]) for it in requests if it["outcome"] == "answered"]
    return scores_of(subject.name, answered)
