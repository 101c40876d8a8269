"""The service under load: the API over a real store and our planner, and a loop that ticks beside it.

`python -m experiments.bench_api.service FOLDER MANY` prints its port, and after SIGTERM the loop's ticks as
JSON. With `STEADY MOVING` behind it has a loop for each of MANY pipelines, which first tick so many times.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from experiments.bench_api.fleet import Fleet, copies, store_in
from ipa.adapters.solvers.planner import PlannerProcesses
from ipa.adapters.store import Store, open_store
from ipa.api.app import create_app
from ipa.api.context import ApiContext
from ipa.api.limits import ApiLimits
from ipa.api.wiring import server_config, settle
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.loop.scheduler import Scheduler, StopSignal, SystemClock
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import PipelineControl
from ipa.files import load_pipelines, load_profiles
from ipa.model.decision import Decision, Mode
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from tests.fakes.metrics import FakeMetrics
from tests.fakes.services import FakeWorld, over
from tests.fakes.store import FakeStore
from tests.fakes.workload import FakeWorkload
from tests.fakes.world import PIPELINE, SMALLEST, Scenario, ours, profiled, window_max
from tests.fakes.world import scenario as virtual

ROOT = Path(__file__).resolve().parents[2]
# So short that a tick would show any delay; the service's own is 10 s.
TICK_S = 0.5
PLANNED = "video"
DEADLINE_S = 5.0
# Flooded as any client's: past it requests are refused.
LIMIT_RPS = 400.0


class Ticks:
    """When the ticks of the loop began, and how long each took."""

    def __init__(self) -> None:
        self.began_s: list[float] = []
        self.took_s: list[float] = []

    def __call__(self, decision: Decision, snapshot: Snapshot) -> None:
        """A hook of the loop."""
        self.began_s.append(time.monotonic() - snapshot.tick_s)
        self.took_s.append(snapshot.tick_s)


def loop_of(ticks: Ticks, waker: threading.Event) -> ControlLoop:
    """A loop in real time over a world in memory: it observes, forecasts, plans and decides as any."""
    clock, settings = SystemClock(waker), replace(virtual().settings, tick_s=TICK_S)
    made = Scenario(
        clock,  # type: ignore[arg-type]
        FakeMetrics(clock, lambda t_s: 5.0 + 4.0 * ((t_s % 20) > 10)),  # type: ignore[arg-type]
        FakeWorkload(clock, SMALLEST, 1.0),  # type: ignore[arg-type]
        FakeStore(PipelineControl(mode=Mode.ACTIVE)),
        None,  # type: ignore[arg-type]
        settings,
    )
    return ControlLoop(
        PIPELINE,
        LoopPorts(clock, made.metrics, made.workload, made.store, made.store),
        policy=ours(),
        predict=profiled().predict,
        forecaster=window_max,
        settings=settings,
        window_s=60.0,
        run_id="bench",
        on_decision=(ticks,),
        waker=waker,
    )


def services(
    store: Store, pipelines: Mapping[str, Pipeline], profiles: Mapping[str, StageProfile]
) -> ApiContext:
    """The API's, with those pipelines to plan and to list."""
    made = FakeWorld(plans=store.plans, answers=store.answers).play(60).services()

    settings = replace(made.service.settings, solver_deadline_s=DEADLINE_S)
    context = over(
        made, pipelines=pipelines, profiles=profiles, planner=PlannerProcesses(), settings=settings
    )
    return replace(context, limits=ApiLimits(LIMIT_RPS))


class Server(uvicorn.Server):
    """Uvicorn raises a signal again once it has stopped, before there is anything told of the ticks."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main(folder: Path, many: int, rounds: tuple[int, ...]) -> None:
    """Serve until told to stop."""
    logging.disable(logging.CRITICAL)
    store = open_store(store_in(folder))
    pipelines = copies(load_pipelines(ROOT / "pipelines")[PLANNED], many)
    profiles = load_profiles(ROOT / "profiles", PLANNED)
    ticks, stop = Ticks(), StopSignal()
    loops = Scheduler(SystemClock, stop)
    server = Server(server_config(create_app(services(store, pipelines, profiles))))
    signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    facts: dict[str, Any] = {"rounds": []}
    if rounds:
        fleet = Fleet(pipelines, profiles, store, stop)
        facts["rounds"] = fleet.rounds(*rounds)
    loops.add(loop_of(ticks, stop.linked()))
    settle()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        server.run(sockets=[listener])
    stop.set()
    loops.join(TICK_S)
    store.close()
    facts |= {"began_s": ticks.began_s, "took_s": ticks.took_s}
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), tuple(map(int, sys.argv[3:])))
