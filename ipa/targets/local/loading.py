"""Resident variants of local replicas: loaded in the background, and switched between in place."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.resident import ANY_VARIANT, is_lighter, resident_variants
from ipa.targets.local.replica import Phase, Replica, local_run, write_model

log = logging.getLogger(__name__)

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


class VariantLoader:
    """Keeps in each replica the variants that `resident` says, one load or unload at a time.

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
        """Start what is next to load or unload in the replicas of a stage that wants `config`."""
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
        """Follow the pipeline as its file has it now."""
        with self._lock:
            self._pipeline = pipeline
            self._failed.clear()

    def failure(self, config: StageConfig, replicas: Sequence[Replica]) -> str:
        """The reason why a replica could not load the wanted variant, in words; empty if none failed."""
        with self._lock:
            found = (self._failed.get((it.key, config.variant)) for it in replicas if it.fits(config))
            return next((each[1] for each in found if each), "")

    def forget(self, config: StageConfig, replicas: Sequence[Replica]) -> None:
        """Try the wanted variant anew in these replicas."""
        with self._lock:
            for replica in replicas:
                self._failed.pop((replica.key, config.variant), None)

    def close(self) -> None:
        """Wait for the threads, whose servers have ended."""
        self._pool.shutdown(cancel_futures=True)

    def _next(self, replica: Replica, wanted: Sequence[str]) -> str:
        """The variant to load, or that of those loaded to unload; empty if there is nothing to do now."""
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
                log.warning("%s", why)
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
    """Give variant and cores that are wanted to replicas, as soon as no capacity goes by that.

    More cores, and a less accurate variant, which is quicker, are given at once. Fewer, and another variant,
    wait until enough replicas can serve it, and fewer cores until they `may_shrink`. `resize` gives a replica
    its cores.
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
