"""Model servers on this machine: their start, state and variants, and checks of a changed file."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx

from ipa.adapters.processes import free_port
from ipa.dataplane.http import PARTS
from ipa.model.errors import ConfigurationError, ConflictError
from ipa.model.measured import ANY_VARIANT, is_lighter, resident_variants
from ipa.model.parts import Configs, in_order, parts_of
from ipa.model.pipeline import Pipeline, Stage, Variant
from ipa.model.plan import StageConfig
from ipa.model.rolling import threads_of
from ipa.targets.base import check_parts
from ipa.targets.local.forkserver import ForkedProcesses
from ipa.targets.local.section import LocalRun, local_of, port_of

LOG = logging.getLogger(__name__)

HOST = "127.0.0.1"
SERVER = "mlserver.cli.main"
# Router and queue, and what they and Uvicorn import only when they start.
FRONTS = (
    *("ipa.dataplane.queue", "ipa.dataplane.router"),
    *("uvicorn.protocols.http.httptools_impl", "uvicorn.lifespan.on"),
)
MLSERVER_SETTINGS = {
    "debug": False,  # no access log
    "host": HOST,
    "grpc_port": 0,  # any; nobody calls it
    "metrics_endpoint": None,  # the queue measures
    "parallel_workers": 0,  # a pool of processes of its own would escape the quota
    "gzip_enabled": False,
}
# MLServer's: POST NAME/load reads the model's settings and loads it beside the others.
REPOSITORY = "v2/repository/models"
# As long as a pipeline may take to start.
LOAD_TIMEOUT_S = 180.0
# A variant that does not load is tried again after this.
AGAIN_S = 60.0
# A batch that was sent before a switch may still be served by the variant before it.
LEFT_FOR_S = 5.0
# More would compete with requests for the cores.
MOST_LOADING = 4
# After this many failed health checks in a row, each of 2 s, a replica counts as hung.
HUNG_AFTER = 3


class Phase(StrEnum):
    """The phases of a replica's life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"


@dataclass(slots=True)
class Replica:
    """One model server: its variant, its folder and URL, and its phase.

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
    # Those that its queue may choose instead of `variant`.
    stand_ins: tuple[str, ...] = ()
    # When each variant that it has run was last one of these.
    left_s: dict[str, float] = field(default_factory=dict)

    def switch(self, variant: str, now_s: float) -> None:
        """Serve another of the loaded variants from now on."""
        if variant != self.variant:
            self.left_s[self.variant] = now_s
            self.variant = variant

    def set_stand_ins(self, variants: tuple[str, ...], now_s: float) -> None:
        """Set the variants that its queue may choose from now on."""
        for variant in set(self.stand_ins) - set(variants):
            self.left_s[variant] = now_s
        self.stand_ins = variants

    def is_left(self, variant: str, since_s: float) -> bool:
        """True if it no longer serves the variant, and cannot have been given a batch for it since then."""
        if variant == self.variant or variant in self.stand_ins:
            return False
        return self.left_s.get(variant, since_s) <= since_s

    def resize(self, cores: float) -> None:
        """Give it other cores, with the same number of threads. OSError: its cores file cannot be written."""
        write_cores(self.cores_file, cores)
        self.cores = cores

    @property
    def is_resident(self) -> bool:
        """True if it can load other variants."""
        return ANY_VARIANT in self.model

    def serves(self, config: StageConfig) -> bool:
        """True if it runs the configuration's variant on exactly its cores."""
        return (self.variant, self.cores) == (config.variant, config.cores)

    def carries(self, config: StageConfig) -> bool:
        """True if it runs the configuration's variant on at least its cores."""
        return self.fits(config) and self.variant == config.variant and self.cores >= config.cores

    def fits(self, config: StageConfig) -> bool:
        """True if it serves the configuration, or can without a restart after a switch or resize."""
        has_threads = threads_of(self.cores) == threads_of(config.cores)
        return self.serves(config) or (self.is_resident and has_threads)

    def model_url(self, variant: str, root: str = "v2/models") -> str:
        """The URL of the variant's model; `root` may be the repository's."""
        return f"{self.url}/{root}/{self.model.replace(ANY_VARIANT, variant)}"

    def is_ready(self, client: httpx.Client) -> bool:
        """True if its model is loaded and answers."""
        try:
            return client.get(f"{self.model_url(self.variant)}/ready").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    @property
    def cores_file(self) -> Path:
        """The file with its cores."""
        return self.log.with_suffix(".cores")

    def last_words(self) -> str:
        """The last line of its log, usually its error."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.is_file() else []
        return lines[-1] if lines else "nothing in its log"


def model_of(stage: Stage) -> str:
    """The name of the model at a stage's servers: the stage's, with {variant} if variants are resident."""
    return f"{stage.name}--{ANY_VARIANT}" if stage.residents > 1 else stage.name


def local_run(pipeline: Pipeline, stage: str, variant: str) -> LocalRun:
    """The variant's `local:` section. Errors: NotFoundError, ConfigurationError (it has none)."""
    run = local_of(pipeline.stage(stage).variant(variant))
    if run is None:
        raise ConfigurationError(
            f"variant {variant!r} of stage {pipeline.name}/{stage} has no `local:` section",
            hint="Add `local: {implementation: ..., parameters: {...}}` to it in the pipeline's file; "
            f"`ipa profile {pipeline.name} --at URL` measures a server that runs elsewhere.",
        )
    return run


def checked(pipeline: Pipeline, configs: Sequence[StageConfig]) -> Configs:
    """The configurations in the order of parts and stages, checked to be runnable on this machine.

    ConflictError if stages are missing or unknown; NotFoundError and ConfigurationError for variants;
    ConfigurationError for a graph that is no chain; InputError if shares are not percents that sum to 100.
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
    check_parts(pipeline, configs, len(PARTS))
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
    folder: Path,
    pipeline: Pipeline,
    config: StageConfig,
    number: int,
    now_s: float,
) -> Replica:
    """Start a replica of the configuration; it is not ready yet."""
    run = local_run(pipeline, config.stage, config.variant)
    model = model_of(pipeline.stage(config.stage))
    key, port = f"{config.stage}-{number}", free_port()
    model_dir, log = folder / key, folder / f"{key}.log"
    model_dir.mkdir(parents=True, exist_ok=True)
    url, variant = f"http://{HOST}:{port}", config.variant
    replica = Replica(key, config.stage, variant, config.cores, url, 0, log, now_s, model, {variant})
    write_cores(replica.cores_file, config.cores)
    threads = str(threads_of(config.cores))
    env = {"IPA_CORES": f"{config.cores:g}", "IPA_THREADS": threads, "OMP_NUM_THREADS": threads}
    env |= {"IPA_CORES_FILE": str(replica.cores_file), **run.env}
    # It yields to router and queues.
    order: dict[str, Any] = {"yields": True}
    if run.command:
        words = {"{python}": sys.executable, "{port}": str(port), "{model_dir}": str(model_dir)}
        order["command"] = list(run.command)
        for name, value in words.items():
            order["command"] = [word.replace(name, value) for word in order["command"]]
    else:
        settings = {**MLSERVER_SETTINGS, "http_port": port}
        (model_dir / "settings.json").write_text(json.dumps(settings, indent=1))
        write_model(model_dir, model.replace(ANY_VARIANT, config.variant), run)
        order |= {"module": SERVER, "arguments": ["start", str(model_dir)]}
    replica.pid = processes.start(order, env=env, log=log)
    return replica


def write_model(model_dir: Path, name: str, run: LocalRun) -> None:
    """Write a model's model-settings.json into a folder of its own within the server's.

    MLServer loads the models that are there when it starts, others through its repository API.
    """
    parameters = {"extra": dict(run.parameters)}
    model = {"name": name, "implementation": run.implementation, "parameters": parameters}
    (model_dir / name).mkdir(parents=True, exist_ok=True)
    (model_dir / name / "model-settings.json").write_text(json.dumps(model, indent=1))


def write_cores(path: Path, cores: float) -> None:
    """Write the replica's cores atomically."""
    part = path.with_suffix(".part")
    part.write_text(f"{cores:g}")
    part.replace(path)


def check_adoptable(running: Pipeline, changed: Pipeline) -> None:
    """ConflictError if the changed pipeline would start its processes differently."""

    def starts(pipeline: Pipeline) -> list[Any]:
        stages = [
            (it.name, it.residents, {v.name: local_of(v) for v in it.variants}) for it in pipeline.stages
        ]
        return [port_of(pipeline), stages]

    if starts(changed) != starts(running):
        raise ConflictError(
            "the port of the router, the stages, their variants or `resident`, or how they are started here "
            "would change",
            hint="Restart the service to apply the file.",
        )


class VariantLoader:
    """Keeps in each replica the variants that `resident` asks for, one load or unload at a time.

    The wanted variant comes first, in all replicas; others are loaded in one replica of a stage after
    another. No replica has more than planned: a variant is unloaded before another is loaded.
    """

    def __init__(self, pipeline: Pipeline, folder: Path, client: httpx.Client, wake: threading.Event) -> None:
        self._pipeline, self._folder, self._client, self._wake = pipeline, folder, client, wake
        self._pool = ThreadPoolExecutor(MOST_LOADING, thread_name_prefix=f"load-{pipeline.name}")
        self._lock = threading.Lock()
        # The replicas that load or unload a variant now.
        self._busy: set[str] = set()
        # By replica and variant: when it could not be loaded, and why.
        self._failed: dict[tuple[str, str], tuple[float, str]] = {}

    def follow(self, config: StageConfig, replicas: Sequence[Replica]) -> None:
        """Start the next load or unload in the replicas of a stage whose wanted configuration is `config`."""
        wanted = resident_variants(self._pipeline, config.stage, config.variant)
        ready = [it for it in replicas if it.is_resident and it.phase is Phase.READY]
        with self._lock:
            for replica in ready:
                variant = "" if replica.key in self._busy else self._next(replica, wanted)
                is_urgent = wanted[0] not in replica.loaded
                if variant and (is_urgent or not any(it.key in self._busy for it in ready)):
                    self._busy.add(replica.key)
                    action = "unload" if variant in replica.loaded else "load"
                    replica.loaded.discard(variant)
                    self._pool.submit(self._change, replica, action, variant)

    def adopt(self, pipeline: Pipeline) -> None:
        """Follow the pipeline's changed file, and try all variants again."""
        with self._lock:
            self._pipeline = pipeline
            self._failed.clear()

    def failure(self, config: StageConfig, replicas: Sequence[Replica]) -> str:
        """The reason why a replica could not load the wanted variant, in words; empty if none failed."""
        with self._lock:
            failures = (self._failed.get((it.key, config.variant)) for it in replicas if it.fits(config))
            return next((each[1] for each in failures if each), "")

    def close(self) -> None:
        """Wait for the loading threads; their servers have ended."""
        self._pool.shutdown(cancel_futures=True)

    def _next(self, replica: Replica, wanted: Sequence[str]) -> str:
        """The variant to load, or the loaded one to unload; empty if there is nothing to do now."""
        now_s = time.monotonic()
        recent = {
            variant
            for (key, variant), (at_s, _) in self._failed.items()
            if key == replica.key and now_s - at_s <= AGAIN_S
        }
        missing = next((it for it in wanted if it not in replica.loaded | recent), "")
        if missing and len(replica.loaded) < len(wanted):
            return missing
        spare = [it for it in replica.loaded if it != wanted[0] and replica.is_left(it, now_s - LEFT_FOR_S)]
        least = max(spare, key=lambda it: wanted.index(it) if it in wanted else len(wanted), default="")
        return least if missing or least not in wanted else ""

    def _change(self, replica: Replica, action: str, variant: str) -> None:
        """Load or unload the variant."""
        if action == "load":
            name = replica.model.replace(ANY_VARIANT, variant)
            write_model(self._folder / replica.key, name, local_run(self._pipeline, replica.stage, variant))
        url, why = f"{replica.model_url(variant, REPOSITORY)}/{action}", ""
        try:
            answer = self._client.post(url, timeout=LOAD_TIMEOUT_S)
            if answer.is_error:
                why = f"the server answered {answer.status_code}: {answer.text[:300]}"
        except httpx.HTTPError as error:
            why = repr(error)
        with self._lock:
            self._busy.discard(replica.key)
            if why:
                why = f"{replica.key} cannot {action} {variant}: {why}"
                LOG.warning("%s", why)
                self._failed[replica.key, variant] = time.monotonic(), why
            elif action == "load":
                replica.loaded.add(variant)
        self._wake.set()


def switch(
    pipeline: Pipeline,
    config: StageConfig,
    replicas: Sequence[Replica],
    resize: Callable[[Replica, float], None],
    *,
    may_shrink: bool = True,
) -> None:
    """Give replicas the wanted variant and cores as soon as that removes no capacity.

    More cores, and a less accurate variant, which is quicker, are given at once. Fewer cores, and another
    variant, wait until enough replicas can serve it, and fewer cores also until they `may_shrink`. `resize`
    gives a replica its cores.
    """
    able = [it for it in replicas if it.phase is Phase.READY and config.variant in it.loaded]
    staying = [it for it in able if it.fits(config)][: config.replicas]
    enough = len(staying) == config.replicas
    for replica in staying:
        if replica.cores < config.cores:
            resize(replica, config.cores)
    for replica in able:
        if enough or is_lighter(pipeline.bounds, config.stage, replica.variant, config.variant):
            replica.switch(config.variant, time.monotonic())
    for replica in staying if enough and may_shrink else ():
        if replica.cores > config.cores:
            resize(replica, config.cores)
