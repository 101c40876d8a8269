"""Experiments over several policies, and over a restart of the service."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.store import open_store
from ipa.adapters.store.experiments import ORPHANED_S, ExperimentRows
from ipa.bootstrap.service import experiment_jobs
from ipa.control.jobs import Job, JobPhase
from ipa.model.errors import UnavailableError
from ipa.service.job_queue import MOST_STARTS, JobQueue, packed
from tests.api.test_api_experiments import BODY, ENDLESS, begin, said_of, until
from tests.fakes.services import NOW, ApiClient, FakeClock, FakeWorld

LOAD = {"rates_rps": [2.0] * 30 + [8.0] * 30}


@contextmanager
def service(store: ExperimentRows | None, program: str | None = None) -> Iterator[ApiClient]:
    """A run of the service over that store."""
    command = {"command": (sys.executable, "-c", program)} if program else {}
    desk = experiment_jobs(FakeClock(), **command, store=store)
    yield ApiClient(FakeWorld(jobs=desk).play(5).services())
    desk.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ExperimentRows]:
    opened = open_store(f"sqlite:///{tmp_path / 's.sqlite3'}")
    yield opened.experiments
    opened.close()


def test_policies_have_the_same_requests_and_are_compared_seed_by_seed() -> None:
    with service(None) as api:
        asked = {**BODY, **LOAD, "repeats": 2, "policies": ["ours", "static", "infadapter"]}
        begun = api.post("/v1/experiments", asked)
        assert begun.status_code == 202, begun.text
        done = until(api, begun.headers["location"], "done", "failed")
        assert (done["phase"], done["fault"]) == ("done", None)
        ours, static, refused = done["policies"]
        assert [each["policy"] for each in done["policies"]] == asked["policies"]
        assert done["result"] == ours["result"] and ours["difference"] is None
        # A policy that cannot control the pipeline does not end the others.
        assert "one stage" in refused["fault"] and refused["result"] is None
        assert ours["result"]["requests"] == static["result"]["requests"]
        for name in ("cores_mean", "violation_ratio", "requests"):
            wanted = static["result"][name] - ours["result"][name]
            assert static["difference"][name]["value"] == pytest.approx(wanted)
        assert static["difference"]["cores_mean"]["half_width"] is not None
        assert static["difference"]["requests"] == {"value": 0, "half_width": 0}
        report = api.get(f"{done['report']}?as=json").json()
        assert [(each["policy"], each["seed"]) for each in report["runs"]] == [
            ("ours", 3), ("ours", 4), ("static", 3), ("static", 4),
        ]  # fmt: skip
        (cores,) = [each for each in report["differences"] if each["figure"] == "cores_mean"]
        assert (cores["policy"], cores["reference"], cores["pairs"]) == ("static", "ours", 2)
        page = api.get(done["report"]).text
        assert "Differences from ours under the same requests" in page
        curves = api.get(f"/v1/experiments/{done['experiment_id']}/curves").json()
        assert [each["policy"] for each in curves["runs"]] == ["ours", "static"]
        assert curves["seed"] in (3, 4) and (curves["sla_s"], curves["percentile"]) == (0.9, 99)


def test_curves_say_what_the_requests_met() -> None:
    said = said_of(**LOAD)[-1]
    (run,), figures = said["report"]["curves"], said["result"]
    curves = run["curves"]
    assert len(curves["at_s"]) == 60 and curves["at_s"][:2] == [0.0, 1.0]
    assert sum(curves["rate_rps"]) == pytest.approx(figures["requests"])
    met = [
        (rate, ratio)
        for rate, ratio in zip(curves["rate_rps"], curves["in_time_ratio"], strict=True)
        if ratio is not None
    ]
    in_time = sum(rate * ratio for rate, ratio in met) / figures["requests"]
    assert in_time == pytest.approx(1 - figures["violation_ratio"])
    assert max(value for value in curves["latency_s"] if value) <= figures["latency_max_s"]
    # Nothing was sent: no latency and no share, which is not the same as none in time.
    pairs = zip(curves["rate_rps"], curves["in_time_ratio"], strict=True)
    assert all((rate == 0) == (ratio is None) for rate, ratio in pairs)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"policies": []}, "/policies"),
        ({"policies": ["ours", "nope"]}, "/policies/1"),
        ({"policies": ["ours", "ours"]}, "/policies/1"),
        ({"policies": ["ours"], "policy": "static"}, "/policies"),
        ({"policies": ["ours"] * 7}, "/policies"),
        ({"policies": ["ours", "static"], "rates_rps": [3e6]}, "/policies"),
    ],
)
def test_policies_that_make_no_sense(body: dict[str, Any], pointer: str) -> None:
    with service(None) as api:
        answer = api.post("/v1/experiments", {**BODY, **body})
        assert answer.status_code == 422
        assert [item["pointer"] for item in answer.json()["errors"]] == [pointer]


def test_a_report_of_an_earlier_version_is_refused_and_the_results_stay(store: ExperimentRows) -> None:
    with service(store) as api:
        done = until(api, begin(api).headers["location"], "done", "failed")
    (kept,) = store.jobs()
    store.forget([kept.job_id])
    store.keep(replace(kept, report=packed([{"policy": "ours"}])), "", b"")
    with service(store) as api:
        assert api.get("/v1/experiments").json()["experiments"] == [done]
        answer = api.get(done["report"])
        assert answer.status_code == 404 and answer.json()["hint"] == "Start the experiment again."


def test_one_that_is_done_outlives_the_service(store: ExperimentRows) -> None:
    with service(store) as api:
        done = until(api, begin(api).headers["location"], "done", "failed")
        assert done["phase"] == "done"
        page = api.get(done["report"]).content
    with service(store, ENDLESS) as api:
        address = f"/v1/experiments/{done['experiment_id']}"
        assert api.get(address).json() == done
        assert api.get("/v1/experiments").json()["experiments"] == [done]
        assert api.get(done["report"]).content == page
        assert api("DELETE", address).status_code == 204
    with service(store, ENDLESS) as api:
        assert api.get("/v1/experiments").json()["experiments"] == []


def test_one_that_is_done_just_before_the_service_ends_is_kept(
    store: ExperimentRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = experiment_jobs(FakeClock(), store=store)
    api = ApiClient(FakeWorld(jobs=queue).play(5).services())
    begun = begin(api)
    with monkeypatch.context() as patch:
        # Its thread has not come to write it.
        patch.setattr(queue, "_save", lambda: None)
        done = until(api, begun.headers["location"], "done", "failed")
    queue.close()
    (kept,) = store.jobs()
    assert kept.phase is JobPhase.DONE and kept.result == done["result"]


def test_those_that_wait_and_run_begin_again(store: ExperimentRows) -> None:
    with service(store, ENDLESS) as api:
        running, waiting = begin(api).json(), begin(api, seed=4).json()
        until(api, f"/v1/experiments/{running['experiment_id']}", "running")
    with service(store) as api:
        for begun in (running, waiting):
            address = f"/v1/experiments/{begun['experiment_id']}"
            done = until(api, address, "done", "failed")
            assert (done["phase"], done["asked"]) == ("done", begun["asked"])
            # As if nothing had been in between.
            assert done["result"] == said_of(seed=begun["asked"]["seed"])[-1]["result"]


def test_one_that_ends_the_service_is_not_tried_for_ever(store: ExperimentRows) -> None:
    address = ""
    desks: list[JobQueue] = []
    for _ in range(MOST_STARTS + 1):
        # As after a crash: nothing is closed.
        desks.append(experiment_jobs(FakeClock(), command=(sys.executable, "-c", ENDLESS), store=store))
        api = ApiClient(FakeWorld(jobs=desks[-1]).play(5).services())
        address = address or begin(api).headers["location"]
        found = until(api, address, "running", "failed")
    assert found["phase"] == "failed" and "the service ended 2 times" in found["fault"]["detail"]
    for desk in desks:
        desk.close()


def test_another_replica_sees_ends_and_adopts_what_is_left(store: ExperimentRows) -> None:
    """As on PostgreSQL, where several services share the store: none takes the running job of another."""
    rows = ExperimentRows(store._engine, lambda: 0.0)
    rows._is_shared = True
    job = Job("a" * 32, {"pipeline": "ocr"}, JobPhase.RUNNING, 0, NOW)
    rows.keep(job, "one", b"spec")
    assert rows.take("two", ORPHANED_S) == ()
    assert [each.job_id for each in rows.jobs()] == [job.job_id]
    ((taken, spec),) = rows.take("two", ORPHANED_S + 1)
    assert (taken, spec) == (job, b"spec")
    assert rows.take("one", ORPHANED_S + 2) == ()
    # The one that is late does not undo an end.
    rows.keep(Job(job.job_id, job.asked, JobPhase.CANCELLED, 0, NOW), "two")
    rows.keep(Job(job.job_id, job.asked, JobPhase.DONE, 100, NOW, report=b"x"), "one")
    assert rows.phases() == {job.job_id: JobPhase.CANCELLED}
    rows.forget([job.job_id])
    assert rows.phases() == {} and rows.jobs() == []


def test_without_the_store_experiments_go_on_in_memory(store: ExperimentRows) -> None:
    class Broken(ExperimentRows):
        def keep(self, *args: Any) -> None:
            raise UnavailableError("the disk is full")

        def phases(self) -> Any:
            raise UnavailableError("the disk is full")

    with service(Broken(store._engine)) as api:
        done = until(api, begin(api).headers["location"], "done", "failed")
        assert done["phase"] == "done"
        assert api.get("/v1/experiments").json()["experiments"] == [done]


def test_many_threads_submit_while_others_look(store: ExperimentRows) -> None:
    """None is lost between the store and the memory."""
    with service(store, ENDLESS) as api:
        ends = threading.Event()

        def look() -> None:
            while not ends.is_set():
                api.get("/v1/experiments")

        looking = threading.Thread(target=look)
        looking.start()
        ids = [begin(api, seed=at).json()["experiment_id"] for at in range(4)]
        ends.set()
        looking.join()
        listed = [each["experiment_id"] for each in api.get("/v1/experiments").json()["experiments"]]
        assert listed == ids[::-1]
