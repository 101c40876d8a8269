"""Runs units in worker processes; what is finished is kept, whatever happens then."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

from experiments.lab.progress import Progress
from experiments.lab.store import RunStore
from experiments.lab.units import Finished, Outcome, Unit

# A worker is one thread: two workers on two cores get in no one's way.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)

# How soon a Ctrl-C is heeded.
LOOK_S = 0.2

Work = Callable[[Any], Outcome]


class Interrupted(Exception):  # noqa: N818 # nothing went wrong: a person said stop
    """The runs were stopped by Ctrl-C or SIGTERM; `kept` of `runs` are on disk."""

    def __init__(self, kept: int, runs: int) -> None:
        super().__init__(f"{kept} of {runs} runs are kept")
        self.kept, self.runs = kept, runs


def run_units(
    name: str, units: Sequence[Unit], work: Work, store: RunStore, *, workers: int = 2
) -> list[Finished]:
    """Every unit with its outcome, in the order given.

    Runs that the store has are not made again. `work` is a function of a module: workers import it. Raises
    Interrupted after Ctrl-C, and what a run raised; finished runs are in the store in either case.
    """
    known = [store.load(unit) for unit in units]
    missing = [unit for unit, outcome in zip(units, known, strict=True) if outcome is None]
    if missing:
        _make(name, missing, work, store, workers, len(units))
    finished = []
    for unit, outcome in zip(units, known, strict=True):
        found = outcome or store.load(unit)
        assert found is not None
        finished.append(Finished(unit, found))
    return finished


def _make(name: str, missing: Sequence[Unit], work: Work, store: RunStore, workers: int, runs: int) -> None:
    progress = Progress(name, len(missing), sum(unit.weight for unit in missing))
    # Spawned, not forked: no state of this process can leak into what a run gives.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    # The long ones first, so that the last minute keeps both cores busy.
    waiting = sorted(missing, key=lambda unit: -unit.weight)
    pending: dict[Future[None], Unit] = {}
    stop = threading.Event()
    # Looked at between runs: an exception out of the middle of the pool's own code could be lost there.
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        while waiting or pending:
            if stop.is_set():
                raise KeyboardInterrupt
            # Few at a time: an interrupt need not take back a long list.
            while waiting and len(pending) < 2 * workers:
                unit = waiting.pop(0)
                pending[pool.submit(_one, work, unit, store)] = unit
            done, _ = wait(pending, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            for future in done:
                unit = pending.pop(future)
                future.result()
                # Of those that wait for an answer the oldest are being made.
                running = sum(each.weight for each in list(pending.values())[:workers])
                progress.step(unit.title, unit.weight, running)
    except KeyboardInterrupt:
        _end(pool)
        kept = runs - sum(store.load(unit) is None for unit in missing)
        raise Interrupted(kept, runs) from None
    except BaseException:
        _end(pool)
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    pool.shutdown()


def _one(work: Work, unit: Unit, store: RunStore) -> None:
    store.keep(unit, work(unit.payload))


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers now: what they have not finished is made again another time."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    manager: threading.Thread | None = getattr(pool, "_executor_manager_thread", None)
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()
    if manager is not None:
        # It closes its pipe once the workers are gone; the interpreter's exit must not write to it meanwhile.
        manager.join()


def _begin() -> None:
    """Set up a worker: one thread, deaf to the terminal's Ctrl-C, gone when its parent is."""
    os.environ.update(ONE_THREAD)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
