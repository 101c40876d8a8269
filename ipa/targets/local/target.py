"""The target `local`: pipelines as processes of this machine, behind ipa's router and queues."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from pathlib import Path

from ipa.adapters.processes import FileLock, HeldError
from ipa.files import load_profiles
from ipa.model.errors import ConflictError, InputError, NotFoundError
from ipa.model.findings import DoctorCheck, Finding, fail, ok, warn
from ipa.model.parts import FrontCores
from ipa.model.pipeline import MOST_PARTS, Pipeline, Stage
from ipa.model.rolling import PROCESSES
from ipa.model.serving import ServingSemantics, Unhonoured
from ipa.profiling.measure import foreign_to, hardware_of
from ipa.settings import Settings
from ipa.targets.base import Profiles, Site, Target, World
from ipa.targets.local.section import SECTIONS, local_of, port_of


def local_findings(pipelines: Mapping[str, Pipeline]) -> Iterator[Finding]:
    """Check that pipelines that run on this machine find their model servers."""
    local = [name for name, pipeline in pipelines.items() if all(map(_is_local, pipeline.served))]
    missing = [module for module in ("mlserver", "orjson") if find_spec(module) is None]
    if not local:
        yield warn(
            "local runtime", "no pipeline says how it runs on this machine", "ipa doctor --at kubernetes"
        )
    elif missing:
        message = f"not installed: {', '.join(missing)}"
        # mlserver ends at its start with a newer uvloop.
        beside = ["'uvloop<0.22'"] if "mlserver" in missing else []
        yield fail("local runtime", message, f"pip install {' '.join(missing + beside)}")
    else:
        yield ok("local runtime", f"can start {', '.join(local)}")
    here = len(os.sched_getaffinity(0))
    for name in local:
        cores = pipelines[name].bounds.cores
        if cores is not None and cores >= here:
            message = f"bounds.cores of {name} is {cores:g}, all of the {here} cores that this process has"
            yield warn("local cores", message, "Lower it: router and queues need CPU time too.")


def machine_findings(
    settings: Settings, pipelines: Mapping[str, Pipeline], machine: str
) -> Iterator[Finding]:
    """Check that the profiles of pipelines that run here were measured on this machine."""
    name = "machine of profiles"
    foreign = {}
    for pipeline in pipelines.values():
        try:
            profiles = load_profiles(settings.profiles_dir, pipeline.name)
        except NotFoundError:
            continue
        if all(map(_is_local, pipeline.served)) and (others := foreign_to(machine, profiles.values())):
            foreign[pipeline.name] = "; ".join(hardware_of(others))
    if not foreign:
        yield ok(name, f"this one, {machine}")
    for pipeline_name, profiled_on in foreign.items():
        message = f"{pipeline_name} was measured on {profiled_on}, this is {machine}"
        yield warn(
            name,
            f"{message}; plans use its times until batches were observed",
            f"ipa profile {pipeline_name} --write",
        )


def _is_local(stage: Stage) -> bool:
    return all(local_of(variant) is not None for variant in stage.variants)


SCRAPE_INTERVAL_S = 1.0
# CPU time of router and queue for a request of one item, measured with `make bench-live`'s load on two cores.
# The rest of the machine is the service's, the metrics' and others'.
ROUTER_S, QUEUE_S, MACHINE_RATIO = 1.0e-3, 0.55e-3, 0.95


class LocalTarget(Target):
    """Model servers on this machine."""

    name = "local"
    title = "target local"
    sections = SECTIONS

    def serving(self, pipeline: Pipeline) -> ServingSemantics:
        """The serving semantics: a central queue for each stage; its replicas serve one variant at a time."""
        return ServingSemantics(
            rolling=PROCESSES, runs_graphs=False, most_parts=MOST_PARTS, keeps_variants=True
        )

    def shape(self, pipeline: Pipeline, profiles: Profiles) -> Pipeline:
        """The pipeline with the times of router and queues, with their cores if this machine is its bound."""
        here, bound = len(os.sched_getaffinity(0)), pipeline.bounds.cores
        if not all(map(_is_local, pipeline.served)):
            return pipeline
        hop_s = ROUTER_S / len(pipeline.served) + QUEUE_S
        stages = (replace(stage, hop_s=hop_s if stage.variants else 0.0) for stage in pipeline.stages)
        pipeline = replace(pipeline, stages=tuple(stages))
        if bound is None or bound > here:
            return pipeline
        front = FrontCores(MACHINE_RATIO * here, ROUTER_S + QUEUE_S * len(pipeline.served))
        return replace(pipeline, bounds=replace(pipeline.bounds, front=front))

    def unhonoured(self, pipeline: Pipeline) -> list[Unhonoured]:
        """Keys without effect, including those of resident variants that cannot share a process."""
        apart = []
        for stage in pipeline.served:
            runs = [run for variant in stage.variants if (run := local_of(variant)) is not None]
            if stage.residents > 1 and any(run.command or run.env != runs[0].env for run in runs):
                apart.append(stage.name)
        faults = super().unhonoured(pipeline)
        if apart:
            why = f"variants of {', '.join(apart)} have a command, or an environment, of their own"
            faults.append(Unhonoured("resident", why, "leave it out, or run all by MLServer with one env"))
        return faults

    def open(self, site: Site) -> World:
        """The pipelines, started with the plan of each, and a scraper of their metrics.

        ConflictError: another service has its pipelines in the same folder.
        """
        from ipa.adapters.prometheus.client import PrometheusMetrics
        from ipa.adapters.prometheus.scraper import Scraper
        from ipa.targets.local.workload import LocalWorkload, cost_figures

        site.resources.callback(_held(site.folder).release)
        local = LocalWorkload(site.folder)
        site.resources.callback(local.stop)
        ports = router_ports(site.settings, site.pipelines)
        for pipeline in site.pipelines.values():
            local.start(pipeline, site.start(pipeline), ports[pipeline.name])
        scraped = [target for name in site.pipelines for target in local.runner(name).scrape_targets]
        scraper = Scraper(scraped, SCRAPE_INTERVAL_S)
        site.resources.callback(scraper.stop)
        site.registry.register(cost_figures(local, tuple(site.pipelines)))
        metrics = PrometheusMetrics(site.settings, ask=scraper.ask)
        endpoints = {name: local.runner(name).endpoint for name in site.pipelines}
        return World(local, metrics, endpoints, adopting=local)

    def doctor_checks(
        self,
        settings: Settings,
        pipelines: Mapping[str, Pipeline],
        namespaces: Sequence[str],
        *,
        elects: bool,
    ) -> list[DoctorCheck]:
        """The model servers' packages, and the machine of the profiles."""
        from ipa.targets.requests import machine

        return [
            DoctorCheck("local runtime", lambda: local_findings(pipelines)),
            DoctorCheck("machine of profiles", lambda: machine_findings(settings, pipelines, machine())),
        ]


def router_ports(settings: Settings, pipelines: Mapping[str, Pipeline]) -> dict[str, int]:
    """The port of each pipeline's router: that of its file, else the next from `router_port` on.

    0 if neither is set. InputError names files with the same port.
    """
    own = {name: port for name in sorted(pipelines) if (port := port_of(pipelines[name])) is not None}
    twice = [name for name, port in own.items() if list(own.values()).count(port) > 1]
    if twice:
        raise InputError(
            f"the files of {', '.join(twice)} have the same `local.port`", hint="Give each another port."
        )
    if not settings.router_port:
        return dict.fromkeys(pipelines, 0) | own
    free = (port for port in count(settings.router_port) if port not in own.values())
    return {name: own[name] if name in own else next(free) for name in sorted(pipelines)}


def _held(folder: Path) -> FileLock:
    """The lock of a folder: two services would overwrite each other's files there."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / ".lock")
    except HeldError as error:
        raise ConflictError(
            f"the folder {folder} is in use by an ipa service{error}",
            hint="Stop that service, or give this one another --folder.",
        ) from error


LOCAL = LocalTarget()
