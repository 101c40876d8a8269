"""Experiments as jobs: started, followed, cancelled, bounded."""

from __future__ import annotations

import itertools
import json
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import fmean
from time import monotonic
from typing import Any

import httpx
import pytest

from ipa.api.experiments import ExperimentBody
from ipa.bootstrap import experiment_worker
from ipa.bootstrap.experiment_worker import answer
from ipa.bootstrap.service import experiment_jobs
from ipa.experiment.cells import Finished
from ipa.report.stats import mean_of
from ipa.service.experiment_report import html_of, markdown_of, unpacked
from ipa.service.experiments import specification
from ipa.service.job_queue import JobQueue, packed
from ipa.simulate.result import SimResult
from ipa.simulate.run import SimSetup, simulate
from tests.fakes.services import ApiClient, FakeClock, FakeWorld, over

WAIT_S = 90.0
BODY = {"pipeline": "ocr", "rates_rps": [0.5] * 60, "seed": 3}
# Says that it is half done, then waits for its input to end, as the real one does with us.
ENDLESS = "import sys; sys.stdin.readline(); print('{\"percent\": 50}', flush=True); sys.stdin.read()"
Start = Callable[..., ApiClient]


@pytest.fixture
def started() -> Iterator[Start]:
    desks: list[JobQueue] = []

    def start(program: str | None = None, **options: Any) -> ApiClient:
        command = {"command": (sys.executable, "-c", program)} if program else {}
        desks.append(experiment_jobs(FakeClock(), **command, **options))
        return ApiClient(FakeWorld(jobs=desks[-1]).play(5).services())

    yield start
    for desk in desks:
        desk.close()


def until(api: ApiClient, address: str, *phases: str) -> dict[str, Any]:
    waiting, end_s = threading.Event(), monotonic() + WAIT_S
    while True:
        found: dict[str, Any] = api.get(address).json()
        if found["phase"] in phases:
            return found
        assert monotonic() < end_s, found
        waiting.wait(0.02)


def begin(api: ApiClient, **changes: Any) -> httpx.Response:
    answer = api.post("/v1/experiments", {**BODY, **changes})
    assert answer.status_code == 202
    return answer


def test_an_experiment_is_what_the_simulator_says(started: Start) -> None:
    api = started()
    begun = begin(api)
    assert begun.json()["phase"] in ("queued", "running")
    assert begun.headers["retry-after"] and begun.json()["asked"] == BODY
    address = begun.headers["location"]
    done = until(api, address, "done", "failed")
    assert (done["phase"], done["percent"], done["fault"]) == ("done", 100, None)
    assert done["result"]["duration_s"] == 60 and done["result"]["requests"] > 0
    assert "retry-after" not in api.get(address).headers
    (listed,) = api.get("/v1/experiments").json()["experiments"]
    assert listed == done


def test_the_list_names_what_one_can_be_of() -> None:
    found = ApiClient(FakeWorld().services()).get("/v1/experiments").json()
    assert found["experiments"] == []
    assert {"ours", "static"} <= set(found["policies"]) and "bursty" in found["workloads"]
    for workload, policy in itertools.product(found["workloads"], found["policies"]):
        assert ExperimentBody(pipeline="ocr", workload=workload, policy=policy).request().rates()


def specified(**changes: Any) -> dict[str, Any]:
    """What the process of an experiment is given."""
    service = FakeWorld().services().service
    body = ExperimentBody(**{**BODY, **changes}).request()
    spec = specification(
        service.settings, service.pipelines["ocr"], service.profiles("ocr"), body, body.rates()
    )
    found: dict[str, Any] = json.loads(json.dumps(spec))
    return found


def test_its_cluster_has_the_cores_and_accelerators_that_are_given() -> None:
    kinds = {"nvidia.com/gpu": 2, "nvidia.com/mig-1g.5gb": 0}
    setup = experiment_worker.setup_of(
        {**specified(capacity_cores=8.0, accelerators=kinds), "policy": "ours"}
    )
    assert setup.cluster.limits == {"cores": 8.0, **kinds}
    assert experiment_worker.setup_of({**specified(), "policy": "ours"}).cluster.limits == {}


def said_of(**changes: Any) -> list[Any]:
    """All that the process of an experiment says."""
    told: list[Any] = []
    answer(specified(**changes), told.append)
    return told


def test_one_that_cannot_be_simulated_says_why() -> None:
    told = said_of(policy="infadapter")
    assert [said["fault"]["code"] for said in told] == ["usage"]
    assert "one stage" in told[0]["fault"]["detail"]


def test_one_that_takes_too_much_memory_is_ended_and_says_so() -> None:
    desk = experiment_jobs(FakeClock())
    services = FakeWorld(jobs=desk).services()
    settings = services.service.settings
    # Less than the libraries take.
    little = ApiClient(over(services, settings=replace(settings, experiment_memory_mb=20.0)))
    failed = until(little, begin(little).headers["location"], "failed", "done")
    assert failed["fault"]["code"] == "http.too_large"
    assert "more than 20 MB of memory" in failed["fault"]["detail"]
    assert "IPA_EXPERIMENT_MEMORY_MB" in failed["fault"]["hint"]
    # What the service itself has does not count.
    ballast = bytes(range(256)) * (3 << 20)
    enough = ApiClient(services)
    assert until(enough, begin(enough).headers["location"], "failed", "done")["phase"] == "done"
    assert len(ballast) / 1e6 > settings.experiment_memory_mb
    desk.close()


def test_progress_is_seen_and_a_cancelled_one_ends(started: Start) -> None:
    api = started(ENDLESS)
    address = begin(api).headers["location"]
    until(api, address, "running")
    waiting = begin(api).headers["location"]
    end_s = monotonic() + WAIT_S
    while api.get(address).json()["percent"] != 50:
        assert monotonic() < end_s
    assert api.get(waiting).json()["phase"] == "queued"
    assert api.post(f"{waiting}:cancel").json()["phase"] == "cancelled"
    assert api.post(f"{address}:cancel").json()["phase"] == "cancelled"
    assert api.post(f"{address}:cancel").json()["phase"] == "cancelled"
    # The next one begins only once the process is gone.
    until(api, begin(api).headers["location"], "running")


def test_one_that_is_deleted_is_not_known_any_more(started: Start) -> None:
    api = started(ENDLESS)
    address = begin(api).headers["location"]
    deleted = api("DELETE", address)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert api.get(address).status_code == 404
    assert api("DELETE", address).status_code == 404


def test_only_so_many_wait(started: Start) -> None:
    api = started(ENDLESS, waiting=2)
    first = begin(api).headers["location"]
    until(api, first, "running")
    for _ in range(2):
        begin(api)
    refused = api.post("/v1/experiments", BODY)
    assert (refused.status_code, refused.json()["code"]) == (429, "busy")
    assert refused.headers["retry-after"]
    api("DELETE", first)


@pytest.mark.parametrize(
    ("program", "code"),
    [("import sys; sys.exit(3)", "internal"), ("print('no JSON')", "internal"), (ENDLESS, "deadline")],
)
def test_a_process_that_dies_or_never_ends_fails(started: Start, program: str, code: str) -> None:
    api = started(program, longest_s=0.5 if program == ENDLESS else 60.0)
    failed = until(api, begin(api).headers["location"], "failed")
    assert failed["fault"]["code"] == code
    assert ("fewer repeats" in failed["fault"]["hint"]) is (code == "deadline")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"workload": "bursty"}, "/workload"),
        ({"rates_rps": None}, "/workload"),
        ({"rates_rps": None, "workload": "../../etc/passwd"}, "/workload"),
        ({"policy": "nope"}, "/policy"),
        ({"rates_rps": [-1]}, "/rates_rps/0"),
        ({"times": 1e300}, "/times"),
        ({"seed": -1}, "/seed"),
        ({"accelerators": {"nvidia.com/gpu": -1}}, "/accelerators/nvidia.com~1gpu"),
        ({"repeats": 0}, "/repeats"),
        ({"repeats": 21}, "/repeats"),
        ({"repeats": 2.0}, "/repeats"),
        ({"repeats": 2, "seed": 2**32 - 1}, "/repeats"),
        # One is few enough, and five of them are not.
        ({"rates_rps": [1e6], "times": 4.0, "repeats": 5}, "/repeats"),
        ({"rates_rps": [1e6], "times": 6.0, "repeats": 5}, "/times"),
    ],
)
def test_one_that_makes_no_sense(started: Start, body: dict[str, Any], pointer: str) -> None:
    answer = started().post("/v1/experiments", {**BODY, **body})
    assert answer.status_code == 422
    assert [item["pointer"] for item in answer.json()["errors"]] == [pointer]


def test_the_last_seeds_and_the_last_requests_that_there_are() -> None:
    rates = ExperimentBody(pipeline="ocr", rates_rps=[1e6], repeats=5, seed=2**32 - 5).request().rates()
    assert rates == (1e6,)


def test_too_many_seeds_say_how_many_there_are(started: Start) -> None:
    answer = started().post("/v1/experiments", {**BODY, "repeats": 3, "seed": 2**32 - 2})
    (item,) = answer.json()["errors"]
    assert "seeds 4294967294 to 4294967296 " in item["message"] and "at most 4294967293" in item["message"]


def test_repeats_are_runs_of_seeds_that_follow_and_their_means(started: Start) -> None:
    api = started()
    rates = [2.0] * 60 + [8.0] * 60
    address = begin(api, rates_rps=rates, repeats=3).headers["location"]
    done = until(api, address, "done", "failed")
    assert (done["phase"], done["asked"]["repeats"]) == ("done", 3)
    result = done["result"]
    alone = [said_of(rates_rps=rates, seed=seed)[-1] for seed in (3, 4, 5)]
    assert {len(said["result"]) for said in alone} == {len(result) - 1}
    assert set(result["intervals"]) == set(result) - {
        "policy", "duration_s", "decisions_by_reason", "intervals",
    }  # fmt: skip
    for name, half_width in result["intervals"].items():
        wanted = mean_of([said["result"][name] for said in alone])
        assert wanted is not None and (result[name], half_width) == (wanted.value, wanted.half_width)
    assert len({said["result"]["requests"] for said in alone}) > 1
    for reason, count in result["decisions_by_reason"].items():
        assert count == fmean(said["result"]["decisions_by_reason"].get(reason, 0) for said in alone)

    said = api.get(done["report"], params={"as": "json"}).json()
    reports = [said["report"] for said in alone]
    for each, one in zip(said["runs"], reports, strict=True):
        (run,) = one["finished"]
        assert each == {
            **run["labels"],
            **run["outcome"]["row"],
            "decisions_by_reason": run["outcome"]["decisions"],
        }
    assert said["inputs"] == reports[0]["inputs"] and [each["seed"] for each in said["runs"]] == [3, 4, 5]
    # Ticks and curves are of the seed whose figures are nearest to the medians.
    assert said["ticks"]["ours"] in [one["finished"][0]["outcome"]["ticks"] for one in reports]
    tails = mean_of([each["latency_p999_s"] for each in said["runs"]])
    assert tails is not None and tails.half_width and result["latency_p999_s"] == tails.value
    page, markdown = (api.get(done["report"], params={"as": kind}).text for kind in ("html", "md"))
    for text in (re.sub("</?small>", "", page), markdown):
        assert "3 seeds (3 to 5)" in text and "their error is unknown" not in text
        assert f"{result['cores_mean']:.2f} ± {result['intervals']['cores_mean']:.2f}" in text
        assert f"{tails.value:.4f} ± {tails.half_width:.4f}" in text and "By seed" in text
        for each in said["runs"]:
            assert f"{each['latency_p99_s']:.2f}" in text
    assert len(page.encode()) < 2_000_000
    again = until(api, begin(api, rates_rps=rates, repeats=3).headers["location"], "done", "failed")
    for kind in ("html", "md", "json"):
        wanted = api.get(done["report"], params={"as": kind}).content
        assert api.get(again["report"], params={"as": kind}).content == wanted


def test_one_seed_is_reported_as_ever(started: Start) -> None:
    api = started()
    done = until(api, begin(api, repeats=1).headers["location"], "done", "failed")
    assert done["result"] == said_of()[-1]["result"] and "intervals" not in done["result"]
    for kind in ("html", "md"):
        text = api.get(done["report"], params={"as": kind}).text
        assert "of one seed: their error is unknown" in text and not re.search(r"\d ± ", text)


def test_what_is_not_known_has_no_interval() -> None:
    """Without requests there are no latencies: no mean of them, no interval, and a dash in the report."""
    said = said_of(rates_rps=[0.0] * 30, repeats=2)[-1]
    assert said["result"]["latency_p99_s"] is None and said["result"]["intervals"]["latency_p99_s"] is None
    assert (said["result"]["requests"], said["result"]["intervals"]["requests"]) == (0, 0)


def test_progress_is_of_all_seeds_and_a_run_is_let_go_before_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[weakref.ref[Any]] = []
    seeds: list[int] = []

    def watched(setup: SimSetup, on_tick: Callable[[float], None]) -> SimResult:
        assert all(each() is None for each in requests)
        seeds.append(setup.seed)
        result = simulate(setup, on_tick)
        requests.append(weakref.ref(result.born_s))
        return result

    monkeypatch.setattr(experiment_worker, "simulate", watched)
    told = said_of(repeats=4)
    assert seeds == [3, 4, 5, 6]
    percents = [said["percent"] for said in told[:-1]]
    assert percents == sorted(set(percents)) and percents[-1] < 100
    for quarter in range(4):
        assert any(25 * quarter <= percent < 25 * (quarter + 1) for percent in percents)
    assert told[-1]["result"]


def test_one_of_nothing(started: Start) -> None:
    assert started().post("/v1/experiments", {**BODY, "pipeline": "nope"}).status_code == 404
    assert started().post("/v1/experiments", {**BODY, "objective": "nope"}).status_code == 404


def test_a_report_is_one_page_that_can_do_nothing_and_its_twins_say_the_same(started: Start) -> None:
    api = started()
    rates = [2.0] * 60 + [8.0] * 120
    address = begin(api, rates_rps=rates).headers["location"]
    running = api.get(f"{address}/report")
    assert running.status_code == 404 or api.get(address).json()["phase"] == "done"
    done = until(api, address, "done", "failed")
    assert done["report"] == f"{address}/report"
    page = api.get(done["report"])
    policy = {
        part.strip().partition(" ")[0]: part for part in page.headers["content-security-policy"].split(";")
    }
    assert policy["sandbox"].strip() == "sandbox" and policy["default-src"].strip() == "default-src 'none'"
    assert "script-src" not in policy
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-disposition"].startswith("inline;")
    # Nothing of it is elsewhere.
    assert not re.search(r"<script|<link|<img|\bsrc=|\bhref=|url\(|@import", page.text)
    assert len(page.content) < 2_000_000 and page.text.count("<svg") == 5
    twin = api.get(done["report"], params={"as": "json", "save": True})
    assert twin.headers["content-disposition"].startswith("attachment;")
    said = twin.json()
    (run,), result = said["runs"], done["result"]
    assert {name: run[name] for name in result if name != "duration_s"} == {
        name: value for name, value in result.items() if name != "duration_s"
    }
    changes = [reason for reason in said["ticks"]["ours"]["reason"] if reason.startswith("apply.")]
    assert len(changes) == result["changes"] > 0 and said["differences"] == []
    markdown = api.get(done["report"], params={"as": "md"}).text
    for text in (page.text, markdown):
        for value in (
            f"{100 * result['pas_mean']:.2f}",
            f"{result['latency_p99_s']:.4f}",
            said["inputs"]["profiles"],
        ):
            assert value in text
        assert changes[-1] in text.replace("\\", "")
    # The same again has the same bytes.
    again = until(api, begin(api, rates_rps=rates).headers["location"], "done", "failed")
    assert api.get(again["report"]).content == page.content


def test_names_in_a_report_stay_text() -> None:
    evil = "<script>alert(1)</script> [x](javascript:y) | `z`"
    report = unpacked(packed(said_of()[-1]["report"]))
    (run,) = report.finished
    ticks = {**run.outcome.ticks, "reason": [f"apply.{evil}"] * len(run.outcome.ticks["reason"])}
    outcome = replace(run.outcome, row={**run.outcome.row, "changes": 1}, ticks=ticks, decisions={evil: 1})
    labels = {**run.labels, "pipeline": evil, "workload": evil, "policy": evil}
    asked = replace(
        report, asked={"policy": evil}, inputs={evil: evil}, finished=(Finished(labels, outcome),)
    )
    assert "<script" not in html_of(asked)
    assert not re.search(
        r"(?<!\\)[<|`\[]", re.sub(r"^\| | \|$| \| |^\|.*---.*\|$", "", markdown_of(asked), flags=re.M)
    )


def test_one_without_a_report_says_so(started: Start) -> None:
    api = started(ENDLESS)
    begun = begin(api).json()
    assert begun["report"] is None
    answer = api.get(f"/v1/experiments/{begun['experiment_id']}/report")
    assert answer.status_code == 404
    assert "has no report" in answer.json()["detail"]
