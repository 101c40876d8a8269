"""H: what comes over HTTP. Requests that flood, drip, lie, come twice or are made up; H1 to H3: who may."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import event

from experiments.fuzz.run import fuzz
from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.store import open_store
from ipa.api import limits
from ipa.api.bodies import PIPELINE
from ipa.api.limits import BODY_LIMIT_BYTES, MOST_HEADERS, ApiLimits
from ipa.control.engine.state import ChangeRequest
from ipa.model.decision import Action, Decision
from ipa.model.errors import ConfigurationError
from ipa.model.observation import Missing
from ipa.model.plan import Plan
from ipa.policies.planning import PlanQuestion
from ipa.serving.logs import TextLines
from ipa.settings import Settings
from tests.fakes.services import ApiClient, FakePlanner, FakeWorld, a_pipeline, a_plan, over
from tests.fakes.world import Scenario, scenario
from tests.faults.server import served
from tests.faults.table import Case

OCR = "/v1/pipelines/ocr"
WAIT_S = 300.0


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld().play(20)


@pytest.fixture
def trap() -> Iterator[tuple[str, list[str]]]:
    """A URL of this machine, and what connected there; it sends who asks on to itself."""
    heard: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = "http://{}:{}".format(*listener.getsockname()[:2])

        def listen() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    request = connection.recv(65536).decode("latin-1")
                    heard.append(request.partition("\r\n")[0])
                    connection.sendall(
                        f"HTTP/1.1 302 Found\r\nLocation: {url}/moved\r\nContent-Length: 0\r\n\r\n".encode()
                    )

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield url, heard
        # A closed listener does not wake who accepts; a connection does.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_S)


def urls(trap: str) -> list[str]:
    """Addresses of what no request may make the service call."""
    port = trap.rpartition(":")[2]
    return [
        trap,
        f"http://[::ffff:127.0.0.1]:{port}/",
        f"http://2130706433:{port}/",
        f"http://0x7f000001:{port}/",
        f"http://localhost:{port}/latest/meta-data/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        f"gopher://127.0.0.1:{port}/_x",
        f"//127.0.0.1:{port}/",
    ]


def test_h4_no_request_makes_the_service_call_an_address(
    case: Case, world: FakeWorld, trap: tuple[str, list[str]]
) -> None:
    api, (url, heard) = ApiClient(world.services()), trap
    paths = api.get("/openapi.json").json()["paths"]
    tag = api.get(OCR).headers["etag"]
    sent, leaked = 0, []
    for address in urls(url):
        headers = {"If-Match": tag, "Idempotency-Key": "k", "Referer": address}
        bodies: list[Any] = [{"rate_rps": 1, "prometheus_url": address, "url": address}]
        file = {**PIPELINE, "name": "reach", "description": address}
        variant = {"name": "a", "seldon": {"image": "x", "model_uri": address}}
        bodies += [{**file, "stages": [{"name": "describe", "variants": [variant]}]}, {"workload": address}]
        bodies += [{"pipeline": address, "rates_rps": [1]}, {"by": address, "reason": address}]
        for path, methods in paths.items():
            for method in methods:
                for body in bodies if "requestBody" in methods[method] else [None]:
                    place = re.sub(r"\{\w+\}", "ocr", path)
                    answer = api(method.upper(), place, json=body, headers=headers, params={"url": address})
                    sent += 1
                    leaked += [place] if "root:" in answer.text else []
    case.note("requests", sent)
    case.equal("forbidden connects", heard, [])
    case.equal("files read", leaked, [])


def test_h4_metrics_are_asked_where_the_settings_say_and_nowhere_else(
    case: Case, trap: tuple[str, list[str]]
) -> None:
    url, heard = trap
    signals = PrometheusMetrics(Settings(prometheus_url=url, prometheus_timeout_s=5.0)).read(
        a_pipeline(), 60.0
    )
    assert isinstance(signals.load, Missing)
    case.equal("redirects followed", sum("/moved" in line for line in heard), 0)
    case.at_least("asked", len(heard), 1)
    refused = []
    for wrong in ("file:///etc/passwd", "gopher://x/", "127.0.0.1:9090", "http://", ""):
        with pytest.raises(ConfigurationError, match="IPA_PROMETHEUS_URL"):
            Settings.from_env({"IPA_PROMETHEUS_URL": wrong})
        refused.append(wrong)
    case.equal("schemes refused", len(refused), 5)


def raw(place: tuple[str, int], *parts: bytes) -> tuple[int, int]:
    """Send that until it is answered or refused: the status (0: none), and the bytes that were taken."""
    taken, answer = 0, b""
    with socket.create_connection(place, timeout=WAIT_S) as connection:
        with suppress(OSError):
            for part in parts:
                connection.sendall(part)
                taken += len(part)
        with suppress(OSError):
            answer = connection.recv(65536)
    return int(answer.split(b" ")[1]) if answer else 0, taken


def test_h5_a_body_without_an_end(case: Case, world: FakeWorld) -> None:
    head = b"POST /v1/pipelines/ocr/plans HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    block = b"x" * 65536
    chunk = b"10000\r\n" + block + b"\r\n"
    us = psutil.Process()
    with served(world.services()) as place:
        before = us.memory_info().rss
        # 400 MB of what would be ten GB: it is refused long before, whatever would follow.
        status, taken = raw(place, head + b"Transfer-Encoding: chunked\r\n\r\n", *([chunk] * 6400))
        grown_mb = (us.memory_info().rss - before) / 1e6
        assert status in (413, 0)
        case.at_most("bytes taken (MB)", taken / 1e6, 40.0)
        case.at_most("memory grown (MB)", grown_mb, 50.0)
        assert 16 * len(block) == BODY_LIMIT_BYTES
        case.equal(
            "1.1 MB in chunks", raw(place, head, b"Transfer-Encoding: chunked\r\n\r\n" + 17 * chunk)[0], 413
        )
        announced, _ = raw(place, head + b"Content-Length: 10000000000\r\n\r\n")
        case.equal("announced 10 GB", announced, 413)
        assert httpx.get("http://{}:{}/healthz".format(*place), timeout=300).status_code == 200


def test_h5_packed_bodies_and_headers_by_the_thousand(case: Case, world: FakeWorld) -> None:
    api = ApiClient(world.services())
    packed = api.post(f"{OCR}/plans", {}, headers={"Content-Encoding": "gzip"})
    case.equal("gzip bomb", (packed.status_code, packed.json()["code"]), (415, "http.unsupported_media_type"))
    many = {f"X-{number}": "x" for number in range(MOST_HEADERS + 1)}
    case.equal("more than a hundred headers", api.get(OCR, headers=many).status_code, 431)
    case.equal("one of 40 kB", api.get(OCR, headers={"X": "x" * 40_000}).status_code, 431)
    deep = api("POST", f"{OCR}/plans", content=b"[" * 1000 + b"]" * 1000)
    case.equal("1 000 deep", deep.status_code, 422)
    flat = b'{"by": "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}'
    case.equal("brackets in text", api("POST", f"{OCR}/pause", content=flat).status_code, 200)
    with served(world.services()) as place:
        lines = b"".join(b"X-%d: x\r\n" % number for number in range(10_000))
        status, _ = raw(place, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + lines + b"\r\n")
        case.equal("10 000 headers", status, 431)
        endless, taken = raw(place, b"GET / HTTP/1.1\r\n", *([b"X: " + b"x" * 60_000 + b"\r\n"] * 500))
        assert endless in (431, 0)
        case.at_most("headers without an end, taken (MB)", taken / 1e6, 20.0)
        assert httpx.get("http://{}:{}/healthz".format(*place), timeout=300).status_code == 200


def test_h5_connections_that_drip(case: Case, world: FakeWorld) -> None:
    begun = b"POST /v1/pipelines/ocr/plans HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{"
    with served(replace(world.services(), limits=ApiLimits(body_s=0.2))) as place:
        slow = [socket.create_connection(place, timeout=WAIT_S) for _ in range(200)]
        try:
            for number, connection in enumerate(slow):
                connection.sendall(begun if number % 2 else b"GET /v1/pipel")
            url = "http://{}:{}/v1/pipelines".format(*place)
            answered = [httpx.get(url, timeout=300).status_code for _ in range(20)]
            case.equal("answered meanwhile (%)", 100 * answered.count(200) / len(answered), 100.0)
            statuses = {connection.recv(65536).split(b" ")[1] for connection in slow[1::2]}
            case.equal("bodies that did not come", statuses, {b"408"})
        finally:
            for connection in slow:
                connection.close()


def made_plan(api: ApiClient) -> tuple[str, str]:
    answer = api.post(f"{OCR}/plans", {"rate_rps": 20})
    return answer.headers["location"], answer.headers["etag"]


def test_h6_an_idempotency_key_again_with_another_body_at_once_and_after_a_restart(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/ipa.sqlite3"
    store = open_store(url)
    world = FakeWorld(plans=store.plans, answers=store.answers).play(20)
    inside, go_on = threading.Event(), threading.Event()

    def slowly(wanted: ChangeRequest) -> Decision:
        inside.set()
        assert go_on.wait(WAIT_S)
        return world.answer(wanted)

    api = ApiClient(over(world.services(), request=slowly))
    at, tag = made_plan(api)
    headers = {"If-Match": tag, "Idempotency-Key": "once"}
    with ThreadPoolExecutor() as pool:
        first = pool.submit(api.post, f"{at}:apply", {}, headers=headers)
        assert inside.wait(WAIT_S)
        at_once = [api.post(f"{at}:apply", {}, headers=headers) for _ in range(5)]
        go_on.set()
        answer = first.result()
    assert answer.is_success
    case.equal("at once", {each.status_code for each in at_once}, {409})
    assert all(each.headers["retry-after"] for each in at_once)
    again = api.post(f"{at}:apply", {}, headers=headers)
    case.equal("again", (again.status_code, again.content), (answer.status_code, answer.content))
    other = api.post(f"{at}:apply", {"by": "another"}, headers=headers)
    case.equal("another body", other.status_code, 422)
    store.close()
    store = open_store(url)
    monkeypatch.setattr("ipa.service.plans._HOLDER", "the next run")
    world.plans, world.answers = store.plans, store.answers
    later = ApiClient(world.services()).post(f"{at}:apply", {}, headers=headers)
    case.equal("after a restart", later.content, answer.content)
    store.close()
    applies = [each for each in world.recorded if each.action is Action.APPLY and each.plan_id]
    case.equal("applies per key", len(applies), 1)


def test_h7_changes_that_do_not_say_what_they_were_made_for(case: Case, world: FakeWorld) -> None:
    api = ApiClient(world.services())
    api.post("/v1/pipelines", PIPELINE)
    at, _ = made_plan(api)
    bodies: dict[str, Any] = {"PUT": PIPELINE, "DELETE": None}
    before = (len(world.recorded), api.get("/v1/pipelines/captions").text)
    document = api.get("/openapi.json").json()["paths"]
    guarded = [
        (method, path)
        for path, methods in document.items()
        for method, each in methods.items()
        if any(one["name"] == "if-match" for one in each.get("parameters", []))
    ]
    case.at_least("operations", len(guarded), 6)
    statuses: dict[str, set[int]] = {}
    for method, path in guarded:
        name = "ocr" if path.endswith(("apply", "rollback")) else "captions"
        place = path.replace("{pipeline}", name).replace("{stage}", "describe")
        place = place.replace("/v1/plans/{plan_id}", at)
        current = api.get(at if at in place else f"/v1/pipelines/{name}").headers["etag"]
        if path.endswith("}/apply") or path.endswith("rollback"):
            current = api.get(f"{OCR}/status").headers["etag"]
        body = bodies.get(method.upper(), {})
        if path.endswith("}/apply"):
            body = {"configs": [_plain(config) for config in a_plan(5.0).configs]}
        for kind, value in (("missing", None), ("stale", '"old"'), ("*", "*"), ("weak", f"W/{current}")):
            headers = {"Idempotency-Key": kind} | ({"If-Match": value} if value else {})
            answer = api(method.upper(), place, json=body, headers=headers)
            statuses.setdefault(kind, set()).add(answer.status_code)
    case.equal("missing", statuses["missing"], {428})
    case.equal("stale", statuses["stale"], {412})
    case.equal("*", statuses["*"], {428})
    case.equal("weak", statuses["weak"], {412})
    after = (len(world.recorded), api.get("/v1/pipelines/captions").text)
    case.equal("lost updates", int(after != before), 0)


def _plain(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__slots__}


HOSTILE = (
    *("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::1].evil", ""),
    *("kim@127.0.0.1", "127.0.0.1@evil", "127.0.0.1:80:80"),
)


def test_h9_other_sites_frames_and_names(case: Case, world: FakeWorld) -> None:
    api = ApiClient(world.services())
    findings: list[str] = []
    places = (
        "/",
        "/assets/app.js",
        "/v1/pipelines",
        f"{OCR}/status",
        "/problems/input",
        "/nothing",
    )
    for path in places:
        answer = api.get(path, headers={"Origin": "https://evil.example"})
        policy = answer.headers["content-security-policy"]
        findings += [f"{path}: frames"] if "frame-ancestors 'none'" not in policy else []
        findings += [f"{path}: frames"] if answer.headers["x-frame-options"] != "DENY" else []
        findings += [f"{path}: inline script"] if "unsafe" in policy or "*" in policy else []
        findings += (
            [f"{path}: CORS"] if any(name.startswith("access-control") for name in answer.headers) else []
        )
        findings += [f"{path}: sniffing"] if answer.headers["x-content-type-options"] != "nosniff" else []
    for host in HOSTILE:
        answer = api.get(f"{OCR}/status", headers={"Host": host})
        findings += [f"host {host!r}: {answer.status_code}"] if answer.status_code != 403 else []
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9", "http://127.0.0.1:8080.evil"):
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
            headers = {"Origin": origin, "Content-Type": kind}
            answer = api("POST", f"{OCR}/pause", content=b"{}", headers=headers)
            findings += [f"origin {origin}"] if answer.status_code != 403 else []
    preflight = api("OPTIONS", f"{OCR}/pause", headers={"Origin": "https://evil.example"})
    findings += ["preflight"] if preflight.status_code < 400 else []
    case.equal("findings", findings, [])
    case.equal("paused by another site", world.control("ocr").paused, False)


def beating() -> tuple[Scenario, list[float]]:
    """A loop that ticks every 5 s, and when it did."""
    made, begun = scenario(), []
    made.loop._hooks = (lambda decision, snapshot: begun.append(made.clock.monotonic_s()),)
    return made, begun


def test_h10_a_flood_is_bounded_and_the_loop_goes_on(case: Case, world: FakeWorld) -> None:
    go_on, running = threading.Event(), threading.Semaphore(0)
    solving: list[int] = []

    async def blocked(*arguments: Any, **options: Any) -> Any:
        solving.append(1)
        running.release()
        assert await asyncio.to_thread(go_on.wait, WAIT_S)
        return a_plan(5.0)

    bounds = ApiLimits(1000.0, solves=2, waiting=4)
    services = replace(over(world.services(), plan=blocked), limits=bounds)
    api = ApiClient(services)
    loop, begun = beating()
    with ThreadPoolExecutor(40) as pool:
        flood = [pool.submit(api.post, f"{OCR}/plans", {"rate_rps": 5}) for _ in range(40)]
        for _ in range(2):
            assert running.acquire(timeout=WAIT_S)
        # All but the two that are solved for and the four that wait are refused at once.
        for refused in islice(as_completed(flood, WAIT_S), 34):
            assert refused.result().status_code == 429
        loop.run(100.0)
        meanwhile = api.get(f"{OCR}/status").status_code
        go_on.set()
        statuses = [each.result().status_code for each in flood]
    case.equal("refused", statuses.count(429), 34)
    case.equal("answered", statuses.count(201), 6)
    case.equal("read meanwhile", meanwhile, 200)
    case.equal("ticks meanwhile", begun, [5.0 * number for number in range(20)])
    case.equal("ticks skipped", loop.loop.snapshot().skipped_ticks, 0)
    answers = [each.result() for each in flood]
    assert all(each.headers["retry-after"] for each in answers if each.status_code == 429)


@pytest.mark.live
def test_h10_decisions_do_not_wait_behind_the_plans_of_a_flood(case: Case, tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/ipa.sqlite3")
    loop, begun = beating()
    loop.loop._world = replace(loop.loop._world, decisions=store, controls=store)
    world = FakeWorld(plans=store.plans, answers=store.answers).play(20)
    api = ApiClient(replace(world.services(), limits=ApiLimits(1000.0, waiting=200)))
    commits: list[object] = []
    event.listen(store._engine, "commit", commits.append)
    with ThreadPoolExecutor(20) as pool:
        flood = [pool.submit(api.post, f"{OCR}/plans", {"rate_rps": 5}) for _ in range(200)]
        loop.run(100.0)
        statuses = {each.result().status_code for each in flood}
    case.equal("answered", statuses, {201})
    case.equal("ticks meanwhile", begun, [5.0 * number for number in range(20)])
    case.equal("decisions recorded", store.verify("pages").decisions, 20)
    # Each waits for the disk, and the record with it.
    case.at_most("transactions of 200 plans", len(commits) - 20, 100)
    store.close()


def test_h10_a_client_that_asks_too_much_waits_and_others_do_not(
    case: Case, world: FakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    buckets = limits.TokenBuckets(3.0, lambda: now[0])
    bounds = ApiLimits()
    bounds.buckets = buckets
    api = ApiClient(replace(world.services(), limits=bounds))
    answers = [api.post(f"{OCR}/plans", {"rate_rps": 5}) for _ in range(5)]
    case.equal("answered", [each.status_code for each in answers], [201, 201, 201, 429, 429])
    assert [each.headers["ratelimit"] for each in answers[:3]] == [
        f'"expensive";r={left};t=1' for left in (2, 1, 0)
    ]
    assert answers[3].headers["ratelimit-policy"] == '"expensive";q=3;w=1'
    assert (answers[3].json()["code"], answers[3].headers["retry-after"]) == ("busy", "1")
    case.equal("another client", buckets.take("another").allowed, True)
    case.equal("reads", api.get(f"{OCR}/status").status_code, 200)
    now[0] = 1.0
    case.equal("a second later", api.post(f"{OCR}/plans", {"rate_rps": 5}).status_code, 201)
    for number in range(limits.MOST_CLIENTS + 10):
        buckets.take(f"client {number}")
    case.at_most("clients remembered", len(buckets._clients), limits.MOST_CLIENTS)


@pytest.mark.parametrize("what", ["plans", "explanations", "frontiers"])
def test_h10_a_client_that_leaves_gives_its_place_back(
    case: Case, world: FakeWorld, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    begun, ended = threading.Semaphore(0), threading.Event()

    async def endless(question: PlanQuestion, *arguments: Any) -> Plan:
        if question.rate_rps < 9:
            return a_plan(question.rate_rps)
        begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("nobody sets it")

    bounds, services = ApiLimits(1000.0, solves=1, waiting=1), world.services()
    planner = FakePlanner(endless, frontier=endless)  # type: ignore[arg-type]
    with served(replace(over(services, planner=planner), limits=bounds)) as (host, port):

        def left(body: bytes) -> socket.socket:
            leaving = socket.create_connection((host, port))
            head = f"POST {OCR}/{what} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
            leaving.sendall(head.encode() + body)
            return leaving

        def ask() -> int:
            return httpx.post(
                f"http://{host}:{port}{OCR}/plans", json={"rate_rps": 5}, timeout=300
            ).status_code

        def until_inside(count: int) -> bool:
            late_s = time.monotonic() + WAIT_S
            while bounds.solves.inside != count and time.monotonic() < late_s:
                time.sleep(0)
            return bounds.solves.inside == count

        first = left(b'{"rate_rps": 10}')
        assert begun.acquire(timeout=WAIT_S)
        second = left(b'{"rate_rps": 11}')
        assert until_inside(2)
        case.equal("third request while one runs and one waits", ask(), 429)
        second.close()
        case.equal("a waiting client that disconnects is released", until_inside(1), True)
        first.close()
        case.equal(
            "a planned client that disconnects is released", ended.wait(WAIT_S) and until_inside(0), True
        )
        case.equal("next request", ask(), 201)
        case.equal("plans started for disconnected clients", begun.acquire(blocking=False), False)


FORGED = "x\r\n2026-11-25 12:00:00 WARNING ipa.control pages: apply.requested forged"
HIDDEN = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\x1b[2K", "\u202e", "\x00")


def test_h11_what_people_send_forges_no_line_of_the_log_and_no_header(case: Case, world: FakeWorld) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(TextLines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        api = ApiClient(world.services())
        sent = 0
        split: list[str] = []
        for hidden in HIDDEN:
            word = f"kim{hidden}{FORGED}"
            for method, path, body in (
                ("POST", f"{OCR}/pause", {"by": word, "reason": word}),
                ("PUT", f"{OCR}/mode", {"mode": "active", "by": word, "reason": word}),
                ("POST", f"{OCR}/plans", {"rate_rps": 5, "objective": word}),
                ("DELETE", f"{OCR}/freezes", None),
            ):
                params = {"by": word[:200], "reason": word[:200]} if method == "DELETE" else {}
                answer = api(method, path, json=body, params=params)
                split += [name for name in answer.headers if "forged" in name]
                sent += 1
        world.failing = RuntimeError(FORGED)
        assert api.get(f"{OCR}/status").status_code == 500
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    lines = re.split("[\n\r\x0b\x0c\x85\u2028\u2029]", out.getvalue())
    begun = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z]+ (?!ipa\.control)[\w.]+ ")
    forged = [line for line in lines if line and not begun.match(line) and not line.startswith("\t")]
    case.note("requests", sent)
    case.at_least("lines", len(lines), 3 * len(HIDDEN))
    case.equal("forged lines", forged, [])
    case.equal("escape sequences", "\x1b" in out.getvalue() or "\u202e" in out.getvalue(), False)
    case.equal("headers", split, [])


def test_h8_made_up_requests_of_every_operation_find_nothing(case: Case) -> None:
    report = fuzz(examples=2, steps=3, seed=1, is_short=True)
    assert report.findings == {}, report.details
    assert report.errors == []
    case.equal("5xx", sum(count for status, count in report.by_status.items() if status >= 500), 0)
    case.equal("undocumented statuses", report.of_check("status_code_conformance"), 0)
    case.equal("operations not exercised", report.uncovered, [])
    case.note("operations", len(report.operations))
    assert report.cases > 2 * len(report.operations)
