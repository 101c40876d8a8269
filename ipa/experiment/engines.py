"""Computes cells by joblib: in processes of this machine, or on the workers of a Dask or Ray cluster.

The outcome of a cell does not depend on the engine. This process keeps each outcome as it arrives, so workers
need no shared file system.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from ipa.adapters.processes import end_with_parent
from ipa.experiment.cells import CellOutcome, CellStore, ExperimentCell, Finished, code_version
from ipa.experiment.runners import runner_of
from ipa.model.errors import ConfigurationError, IpaError, UsageError

LOCAL = "local"
ENGINES = (LOCAL, "dask://HOST:PORT", "ray://HOST:PORT")
# How long a scheduler may take to answer.
CONNECT_S = 30
# Cells of one call for each worker, where results come all at once: so many are lost by a crash.
AT_ONCE = 4
# Simulations share caches and the solver's memory, so threads of a worker take turns.
_TURN = threading.Lock()

Say = Callable[[str], None]
Watch = Callable[[int], AbstractContextManager[Say]]
Indexed = tuple[int, CellOutcome]


class Interrupted(Exception):  # noqa: N818 # a person said stop
    """The experiment was stopped by Ctrl-C or SIGTERM; `kept` of its `cells` are on disk."""

    def __init__(self, kept: int, cells: int) -> None:
        super().__init__(f"stopped: {kept} of {cells} cells are kept; the same command goes on from there")
        self.kept, self.cells = kept, cells


@dataclass(frozen=True, slots=True)
class Engine:
    """The place where cells are computed: `local` with that many processes, or the address of a scheduler."""

    address: str = LOCAL
    workers: int = 2

    def __post_init__(self) -> None:
        scheme, separator, place = self.address.partition("://")
        if self.address != LOCAL and not (scheme in ("dask", "ray") and separator and place):
            raise UsageError(
                f"there is no engine {self.address!r}", hint=f"Write one of: {', '.join(ENGINES)}"
            )

    def __str__(self) -> str:
        return "local processes" if self.address == LOCAL else self.address


def compute(
    cells: Sequence[ExperimentCell],
    store: CellStore,
    engine: Engine | None = None,
    *,
    watch: Watch = lambda missing: nullcontext(lambda title: None),
    say: Say = lambda words: None,
) -> list[Finished]:
    """Every cell with its outcome, in the order given. Cells that the store has are not computed again.

    `watch` is called with the number of cells to compute; its context receives the title of each finished
    one. `say` is told what a first Ctrl-C leads to. The first
    Ctrl-C or SIGTERM finishes the cells under way, a second one ends them. Errors: Interrupted, those of a
    cell, ConfigurationError (no scheduler, or no package for it). Outcomes are in the store in any case, but
    for those with failed ticks.
    """
    found = [store.load(cell) for cell in cells]
    missing = [at for at, outcome in enumerate(found) if outcome is None]
    # The long ones first, so that the last minute keeps all workers busy.
    missing.sort(key=lambda at: -cells[at].weight)
    if missing:
        with _stopping(say) as stop, watch(len(missing)) as step, ExitStack() as stack:
            try:
                for at, outcome in _computed(engine or Engine(), cells, missing, stop, stack):
                    # A failure may be this machine's, such as a missing file: another run computes it again.
                    if not outcome.row.get("failed_ticks"):
                        store.keep(cells[at], outcome)
                    found[at] = outcome
                    step(cells[at].title)
            except KeyboardInterrupt:
                stop.set()
            except IpaError:
                raise
            except Exception:
                # Its own error if a second signal ended the workers.
                if not stop.is_set():
                    raise
            left = sum(outcome is None for outcome in found)
            if left and stop.is_set():
                raise Interrupted(len(cells) - left, len(cells))
    return [
        Finished(cell.labels, outcome)
        for cell, outcome in zip(cells, found, strict=True)
        if outcome is not None
    ]


@contextmanager
def _stopping(say: Say) -> Iterator[threading.Event]:
    """The event that the first SIGINT or SIGTERM sets; a second one raises KeyboardInterrupt."""
    stop = threading.Event()

    def heed(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        say("finishing the cells under way; once more ends them")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {each: signal.signal(each, heed) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _computed(
    engine: Engine,
    cells: Sequence[ExperimentCell],
    wanted: Sequence[int],
    stop: threading.Event,
    stack: ExitStack,
) -> Iterator[Indexed]:
    """The outcomes as they arrive."""
    import joblib

    expected = code_version()
    connect = {"dask": _dask, "ray": _ray}.get(engine.address.partition("://")[0], _local)
    backend, workers = connect(engine, stack)

    def tasks(part: Sequence[int]) -> Iterator[Any]:
        for at in part:
            if stop.is_set():
                return
            yield joblib.delayed(_one)(at, cells[at], expected)

    def parallel(return_as: str) -> Any:
        # As many at a time as there are workers: an interrupt need not take back a long list.
        return joblib.Parallel(workers, return_as=return_as, pre_dispatch="n_jobs", batch_size=1)

    with backend:
        if connect is not _ray:
            yield from parallel("generator_unordered")(tasks(wanted))
            return
        # Ray's backend returns the results of a call together.
        size = AT_ONCE * workers
        for first in range(0, len(wanted), size):
            yield from parallel("list")(tasks(wanted[first : first + size]))


def _one(at: int, cell: ExperimentCell, expected: str) -> Indexed:
    """The outcome of the cell; ConfigurationError if this worker has other code than the one that asks."""
    from threadpoolctl import threadpool_limits

    if code_version() != expected:
        raise ConfigurationError(
            f"a worker has ipa {code_version()}, this process {expected}",
            hint="Install the same ipa and the same packages on every worker.",
        )
    with _TURN, threadpool_limits(1):
        return at, runner_of(cell.runner).work(cell.payload, cell.series)


def _local(engine: Engine, stack: ExitStack) -> tuple[Any, int]:
    import joblib
    from joblib.externals.loky import get_reusable_executor

    # Workers leave the terminal's Ctrl-C to this process, and end with it.
    backend = joblib.parallel_config(backend="loky", inner_max_num_threads=1, initializer=_begin)
    if engine.workers > 1:
        stack.callback(lambda: get_reusable_executor().shutdown(wait=True, kill_workers=True))
    return backend, engine.workers


def _begin() -> None:
    """Set up a worker process: deaf to Ctrl-C, gone if its parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()


def _dask(engine: Engine, stack: ExitStack) -> tuple[Any, int]:
    import joblib

    try:
        from distributed import Client
    except ImportError as error:
        raise _lacking("dask") from error
    place = engine.address.removeprefix("dask://")
    try:
        client = stack.enter_context(Client(f"tcp://{place}", timeout=CONNECT_S, set_as_default=False))
        client.wait_for_workers(1, timeout=CONNECT_S)
    except (OSError, TimeoutError) as error:
        raise _unreachable(engine, error) from error
    return joblib.parallel_config(backend="dask", client=client), sum(client.nthreads().values())


def _ray(engine: Engine, stack: ExitStack) -> tuple[Any, int]:
    import joblib

    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise _lacking("ray") from error
    try:
        stack.enter_context(ray.init(engine.address, log_to_driver=False))
    except (ConnectionError, OSError, RuntimeError) as error:
        raise _unreachable(engine, error) from error
    register_ray()
    return joblib.parallel_config(backend="ray"), max(1, int(ray.cluster_resources().get("CPU", 1)))


def _lacking(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"the engine {name} needs a package that is not installed",
        hint=f"Install ipa with its extra `{name}`, here and on every worker.",
    )


def _unreachable(engine: Engine, error: Exception) -> ConfigurationError:
    # A traceback of the server ends with its reason.
    words = str(error).strip().rpartition("\n")[2][:200] or type(error).__name__
    return ConfigurationError(
        f"no worker answers at {engine.address}: {words}",
        hint="Start a scheduler with at least one worker, and name its address.",
    )
