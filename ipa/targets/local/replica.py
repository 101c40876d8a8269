"""One model server on this machine: its folder, its start, its state, and whether a changed file fits it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import httpx

from ipa.adapters.processes import free_port
from ipa.dataplane.http import PARTS
from ipa.model.errors import ConfigurationError, ConflictError, InputError, Problem
from ipa.model.parts import Configs, in_order, parts_of, share_faults
from ipa.model.pipeline import Pipeline, Stage, Variant
from ipa.model.plan import StageConfig
from ipa.model.resident import ANY_VARIANT
from ipa.model.rolling import threads_of
from ipa.targets.local.affinity import CpuMap
from ipa.targets.local.processes import ForkedProcesses
from ipa.targets.local.section import LocalRun, local_of, port_of

HOST = "127.0.0.1"
SERVER = "mlserver.cli.main"
# Router and queue, and what they and Uvicorn import only when they start.
FRONTS = (
    *("ipa.dataplane.queue", "ipa.dataplane.router"),
    *("uvicorn.protocols.http.httptools_impl", "uvicorn.lifespan.on"),
)
# Of so many health checks in a row that fail, each after 2 s, a replica counts as hung.
HUNG_AFTER = 3


class Phase(StrEnum):
    """The life of a replica."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"


@dataclass(slots=True)
class Replica:
    """One model server: what it runs, where, and how far it is.

    `model` is the name of its model, in which {variant} stands for the variant if it keeps several `loaded`.
    """

    key: str
    stage: str
    variant: str
    cores: float
    url: str
    pid: int
    log: Path
    started_s: float
    model: str
    loaded: set[str]
    phase: Phase = Phase.STARTING
    failed_checks: int = 0
    # True if the pipeline's file starts its variant in another way by now.
    is_outdated: bool = False
    # Those that its queue may choose instead of `variant`.
    stand_ins: tuple[str, ...] = ()
    # When each variant that it has run was last one of these.
    left_s: dict[str, float] = field(default_factory=dict)

    def switch(self, variant: str, now_s: float) -> None:
        """Run another of its variants from now on."""
        if variant != self.variant:
            self.left_s[self.variant] = now_s
            self.variant = variant

    def set_stand_ins(self, variants: tuple[str, ...], now_s: float) -> None:
        """Let its queue choose these variants from now on."""
        for variant in set(self.stand_ins) - set(variants):
            self.left_s[variant] = now_s
        self.stand_ins = variants

    def is_left(self, variant: str, since_s: float) -> bool:
        """True if it cannot have been given that variant since then."""
        if variant == self.variant or variant in self.stand_ins:
            return False
        return self.left_s.get(variant, since_s) <= since_s

    def resize(self, cores: float, cpus: CpuMap) -> None:
        """Give it other cores, of as many threads. OSError: its file cannot be written."""
        write_cores(cores_file_of(self.log), cores)
        cpus.resize(str(self.log), cores)
        self.cores = cores

    @property
    def is_resident(self) -> bool:
        """True if it can load other variants."""
        return ANY_VARIANT in self.model

    def serves(self, config: StageConfig) -> bool:
        """True if it runs the configuration's variant on its cores, as the file says."""
        return not self.is_outdated and (self.variant, self.cores) == (config.variant, config.cores)

    def carries(self, config: StageConfig) -> bool:
        """True if it runs the configuration's variant, on as many cores at least."""
        return self.fits(config) and self.variant == config.variant and self.cores >= config.cores

    def fits(self, config: StageConfig) -> bool:
        """True if it serves the configuration, or will with its variant and cores, without another start."""
        has_threads = threads_of(self.cores) == threads_of(config.cores)
        return self.serves(config) or (self.is_resident and not self.is_outdated and has_threads)

    def model_url(self, variant: str, root: str = "v2/models") -> str:
        """The address of the variant's model; `root` may be that of the repository."""
        return f"{self.url}/{root}/{self.model.replace(ANY_VARIANT, variant)}"

    def is_ready(self, client: httpx.Client) -> bool:
        """True if its model is loaded and answers."""
        try:
            return client.get(f"{self.model_url(self.variant)}/ready").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.is_file() else []
        return lines[-1] if lines else "nothing in its log"


def model_of(stage: Stage) -> str:
    """The name of a stage's models at its servers: the stage's, of resident variants with the variant."""
    return f"{stage.name}--{ANY_VARIANT}" if stage.residents > 1 else stage.name


def local_run(pipeline: Pipeline, stage: str, variant: str) -> LocalRun:
    """The variant's `local:` section. Errors: NotFoundError, ConfigurationError (it has none)."""
    run = local_of(pipeline.stage(stage).variant(variant))
    if run is None:
        raise ConfigurationError(
            f"variant {variant!r} of stage {pipeline.name}/{stage} has no `local:` section",
            hint="Add `local: {implementation: ..., parameters: {...}}` to it in the pipeline's file; "
            f"`ipa profile {pipeline.name} --at kubernetes` measures it on its cluster.",
        )
    return run


def checked(pipeline: Pipeline, configs: Sequence[StageConfig]) -> Configs:
    """The configurations as a row of parts, each in the pipeline's order, all of them runnable here.

    ConflictError where stages are missing or unknown; NotFoundError and ConfigurationError for variants;
    ConfigurationError for a graph that is no chain; InputError for shares that are no percents of 100.
    """
    if not pipeline.is_chain:
        raise ConfigurationError(
            f"pipeline {pipeline.name} is not a chain of stages; the local runtime supports only chains",
            hint="Run it with `--target kubernetes`, or use a chain such as [a, b].",
        )
    names = [stage.name for stage in pipeline.stages]
    parts = []
    for part in parts_of(configs) or ((),):
        given = [config.stage for config in part]
        if sorted(given) != sorted(names):
            raise ConflictError(
                f"pipeline {pipeline.name} has stages {', '.join(names)}; the change names {', '.join(given)}"
            )
        parts.append(sorted(part, key=lambda config: names.index(config.stage)))
    faults = share_faults(configs)
    if len(parts) > len(PARTS):
        faults.append(f"at most {len(PARTS)} configurations run side by side, not {len(parts)}")
    if faults:
        raise InputError(
            f"pipeline {pipeline.name!r} cannot run these parts", problems=[Problem(it) for it in faults]
        )
    for config in configs:
        local_run(pipeline, config.stage, config.variant)
    return in_order(parts)


def preloads(pipeline: Pipeline) -> list[str]:
    """The modules that every process of the pipeline would import."""
    variants: list[Variant] = [variant for stage in pipeline.stages for variant in stage.variants]
    runs = [run for variant in variants if (run := local_of(variant)) and not run.command]
    modules = {run.implementation.rpartition(".")[0] for run in runs}
    return [*FRONTS, *([SERVER] if runs else []), *sorted(modules)]


def launch(
    processes: ForkedProcesses,
    cpus: CpuMap,
    folder: Path,
    pipeline: Pipeline,
    config: StageConfig,
    number: int,
    now_s: float,
) -> Replica:
    """Start a replica of the configuration; it is not ready yet."""
    run = local_run(pipeline, config.stage, config.variant)
    model = model_of(pipeline.stage(config.stage))
    key = f"{config.stage}-{number}"
    port = free_port()
    model_dir = folder / key
    log = folder / f"{key}.log"
    place = cpus.place(str(log), config.cores)
    write_cores(cores_file_of(log), config.cores)
    threads = str(threads_of(config.cores))
    env = {"IPA_CORES": f"{config.cores:g}", "IPA_THREADS": threads, "OMP_NUM_THREADS": threads}
    env |= {"IPA_CORES_FILE": str(cores_file_of(log)), **run.env}
    if run.command:
        model_dir.mkdir(parents=True, exist_ok=True)
        command = list(run.command)
        for name, value in (("python", sys.executable), ("port", port), ("model_dir", model_dir)):
            command = [word.replace(f"{{{name}}}", str(value)) for word in command]
        pid = processes.start_command(command, env=env, cpus=place, log=log)
    else:
        write_server(model_dir, port)
        write_model(model_dir, model.replace(ANY_VARIANT, config.variant), run)
        pid = processes.start_module(
            SERVER, ["start", str(model_dir)], env=env, cpus=place, log=log, yields=True
        )
    cpus.started(str(log), pid)
    url = f"http://{HOST}:{port}"
    loaded = {config.variant}
    return Replica(
        key, config.stage, config.variant, config.cores, url, pid, log, now_s, model=model, loaded=loaded
    )


def write_server(model_dir: Path, port: int) -> None:
    """Write MLServer's settings.json into the folder."""
    model_dir.mkdir(parents=True, exist_ok=True)
    server = {
        "debug": False,  # no access log
        "host": HOST,
        "http_port": port,
        "grpc_port": 0,  # any; nobody calls it
        "metrics_endpoint": None,  # the queue measures
        "parallel_workers": 0,  # a pool of processes of its own would escape quota and affinity
        "gzip_enabled": False,
    }
    (model_dir / "settings.json").write_text(json.dumps(server, indent=1))


def write_model(model_dir: Path, name: str, run: LocalRun) -> None:
    """Write a model's model-settings.json into a folder of its own within the server's.

    MLServer loads those that are there when it starts, others by the address of its repository.
    """
    model = {
        "name": name,
        "implementation": run.implementation,
        "parameters": {"extra": dict(run.parameters)},
    }
    (model_dir / name).mkdir(parents=True, exist_ok=True)
    (model_dir / name / "model-settings.json").write_text(json.dumps(model, indent=1))


def cores_file_of(log: Path) -> Path:
    """The file that says the cores of the replica with that log."""
    return log.with_suffix(".cores")


def write_cores(path: Path, cores: float) -> None:
    """Say the replica's cores, at once or not at all."""
    part = path.with_suffix(".part")
    part.write_text(f"{cores:g}")
    part.replace(path)


AGAIN = "Restart the service to apply the file."


def check_adoptable(running: Pipeline, changed: Pipeline, configs: Iterable[StageConfig]) -> None:
    """ConflictError if what runs, with the `configs`, cannot go on as the changed pipeline."""
    there, here = [it.name for it in changed.stages], [it.name for it in running.stages]
    if there != here:
        raise ConflictError(
            f"the stages would be {', '.join(there)} instead of {', '.join(here)}", hint=AGAIN
        )
    if port_of(changed) != port_of(running):
        raise ConflictError("the port of the router would change, which takes a restart", hint=AGAIN)
    for stage in changed.stages:
        if model_of(stage) != model_of(running.stage(stage.name)):
            raise ConflictError(f"`resident` of {stage.name} would change, which takes a restart", hint=AGAIN)
        for variant in stage.variants:
            local_run(changed, stage.name, variant.name)
    for config in configs:
        if config.variant not in [it.name for it in changed.stage(config.stage).variants]:
            raise ConflictError(
                f"the variant {config.variant} of {config.stage} runs, and is no longer in the file",
                hint=f"Run another one first: `ipa pin {running.name} {config.stage} --variant ...`.",
            )


def started_otherwise(before: Stage, now: Stage) -> frozenset[str]:
    """The variants that are started in another way than before."""
    old = {variant.name: local_of(variant) for variant in before.variants}
    return frozenset(it.name for it in now.variants if it.name in old and local_of(it) != old[it.name])
