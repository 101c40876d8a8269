"""The digits pipeline on real model servers: changed and killed under load without a lost request."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.control.ports import RolloutPhase
from ipa.files.pipelines import load_pipeline
from ipa.model.decision import Change
from ipa.model.errors import ConfigurationError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.local.workload import LocalWorkload
from tests.fakes.postgres import other_children
from tests.fakes.waiting import until

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("local")]

START = (StageConfig("locate", "logistic", 1, 0.5, 1), StageConfig("classify", "logistic", 1, 0.5, 1))
GIVE_UP_S = 300.0


@pytest.fixture(scope="module")
def digits(root: Path) -> Pipeline:
    # Changes and deaths are to lose no request; by its file it would drop them at 150 ms.
    return replace(load_pipeline(root / "pipelines" / "digits" / "pipeline.yaml"), drop_after_s=5.0)


@pytest.fixture(scope="module")
def workload(
    digits: Pipeline, tmp_path_factory: pytest.TempPathFactory, root: Path
) -> Iterator[LocalWorkload]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        running = LocalWorkload(tmp_path_factory.mktemp("local"))
        running.start(digits, START)
        yield running
        children = other_children(recursive=True)
        running.stop()
        assert [child for child in children if child.is_running()] == []


class Load:
    """Closed-loop clients, as a context; `statuses` of every answer, `requests` counted."""

    def __init__(self, url: str, clients: int = 3) -> None:
        self._url = f"{url}/v2/models/digits/infer"
        self._stop = threading.Event()
        self._answered = threading.Condition()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        self.statuses: list[int | str] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.wait_for_more(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, number: int) -> None:
        """Return once so many more requests have ended."""
        wanted = len(self.statuses) + number
        with self._answered:
            assert self._answered.wait_for(lambda: len(self.statuses) >= wanted, timeout=GIVE_UP_S)

    def _run(self) -> None:
        with httpx.Client(timeout=GIVE_UP_S, trust_env=False) as client:
            while not self._stop.is_set():
                status: int | str
                try:
                    # A budget longer than a replacement can take: what is lost shows, what is late does not.
                    status = client.post(self._url, json=canvas(1)).status_code
                except httpx.HTTPError as error:
                    status = repr(error)
                with self._answered:
                    self.statuses.append(status)
                    self._answered.notify_all()


def canvas(items: int) -> dict[str, Any]:
    data = [float(pixel % 17) for pixel in range(256 * items)]
    return {"inputs": [{"name": "image", "datatype": "FP32", "shape": [items, 256], "data": data}]}


def change(
    workload: LocalWorkload, pipeline: Pipeline, name: str, *configs: StageConfig, revision: str = ""
) -> Change:
    state = workload.read(pipeline)
    previous = tuple(stage.config for stage in state.stages)
    return Change(name, pipeline.name, revision or state.revision, previous, configs, deadline_s=GIVE_UP_S)


def carry_out(workload: LocalWorkload, pipeline: Pipeline, wanted: Change) -> RolloutPhase:
    workload.write(pipeline, wanted)
    until(lambda: workload.rollout(pipeline, wanted).phase is not RolloutPhase.PROGRESSING)
    return workload.rollout(pipeline, wanted).phase


def test_it_serves_one_digit_for_each_canvas(workload: LocalWorkload) -> None:
    url = f"{workload.runner('digits').endpoint}/v2/models/digits/infer"
    answer = httpx.post(url, json=canvas(5), timeout=GIVE_UP_S, trust_env=False)
    assert answer.status_code == 200
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("digit", "INT64", [5])
    assert len(set(output["data"])) > 0
    assert all(0 <= digit <= 9 for digit in output["data"])
    for target in workload.runner("digits").scrape_targets:
        assert "ipa_" in httpx.get(f"http://{target}/metrics", trust_env=False).text


def test_model_servers_yield_to_router_and_queues(workload: LocalWorkload) -> None:
    runner = workload.runner("digits")
    fronts = {os.getpriority(os.PRIO_PROCESS, pid) for pid in runner.front_pids().values()}
    servers = {os.getpriority(os.PRIO_PROCESS, pid) for pid in runner.pids("locate")}
    assert min(servers) > max(fronts)


def test_batch_variant_cores_and_replicas_change_under_load_without_a_failed_request(
    workload: LocalWorkload, digits: Pipeline
) -> None:
    before = workload.runner("digits").pids("locate"), workload.runner("digits").pids("classify")
    with Load(workload.runner("digits").endpoint) as load:
        locate, classify = (StageConfig(it.stage, it.variant, 4, it.cores, 1) for it in START)
        wanted = change(workload, digits, "batch", locate, classify)
        assert carry_out(workload, digits, wanted) is RolloutPhase.READY
        assert (
            workload.runner("digits").pids("locate"),
            workload.runner("digits").pids("classify"),
        ) == before
        load.wait_for_more(10)
        wanted = change(
            workload,
            digits,
            "variant",
            StageConfig("locate", "ridge", 2, 0.5, 2),
            StageConfig("classify", "tree", 4, 1.0, 1),
        )
        assert carry_out(workload, digits, wanted) is RolloutPhase.READY
        load.wait_for_more(10)
        wanted = change(workload, digits, "back", *START)
        assert carry_out(workload, digits, wanted) is RolloutPhase.READY
        load.wait_for_more(10)
    assert set(load.statuses) == {200}
    state = workload.read(digits)
    assert state.settled
    assert tuple(stage.config for stage in state.stages) == START
    assert [stage.ready_replicas for stage in state.stages] == [1, 1]
    assert workload.runner("digits").core_seconds > 0


@pytest.mark.parametrize("stage", ["locate", "classify"])
def test_kill_9_of_a_model_server_loses_no_request_and_it_is_replaced(
    workload: LocalWorkload, digits: Pipeline, stage: str
) -> None:
    restarts = workload.runner("digits").restarts
    with Load(workload.runner("digits").endpoint) as load:
        (pid,) = workload.runner("digits").pids(stage)
        os.kill(pid, signal.SIGKILL)
        until(lambda: workload.runner("digits").restarts > restarts and workload.read(digits).settled)
        load.wait_for_more(20)
    assert set(load.statuses) == {200}
    assert pid not in workload.runner("digits").pids(stage)


def test_a_variant_without_local_cannot_run_here(root: Path, tmp_path: Path) -> None:
    video = load_pipeline(root / "pipelines" / "video" / "pipeline.yaml")
    configs = [StageConfig(it.name, it.variants[0].name, 1, 1, 1) for it in video.stages]
    with pytest.raises(ConfigurationError, match="has no `local:` section"):
        LocalWorkload(tmp_path).start(video, configs)


def test_processes_are_called_by_what_they_are(workload: LocalWorkload) -> None:
    (nursery,) = other_children()
    called = {child.pid: " ".join(child.cmdline()) for child in nursery.children()}
    servers = {pid for stage in ("locate", "classify") for pid in workload.runner("digits").pids(stage)}
    assert {pid for pid, name in called.items() if "mlserver" in name} == servers
    assert "mlserver" not in " ".join(nursery.cmdline())
    assert sum("ipa.dataplane.queue" in name for name in called.values()) == 2
    assert sum("ipa.dataplane.router" in name for name in called.values()) == 1
