"""R1 and R4: bodies made to keep a parser busy. No request stops the service, known sender or not."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from experiments.attack.parsers import PARSERS, Parser
from experiments.attack.slow_inputs import SlowestInput, search
from ipa.api import gate, limits
from ipa.api.context import ApiContext
from ipa.api.gate import structure_fault
from ipa.api.limits import BODY_LIMIT_BYTES, JSON_LIMIT_BYTES, ApiLimits
from ipa.api.wiring import settle
from tests.fakes.people import Nobody
from tests.fakes.services import ApiClient, FakeWorld
from tests.faults.server import Pulse, served
from tests.faults.table import Case

PLANS, FILES = "/v1/pipelines/ocr/plans", "/v1/pipelines"
JSON, YAML = "application/json", "application/yaml"
ROUNDS = int(os.environ.get("IPA_FAULT_SLOW_INPUTS", "40"))
TRIES = 8


def full(begin: str, unit: str, end: str = "", size_bytes: int = BODY_LIMIT_BYTES) -> bytes:
    """A body of that size at the most, of one unit again and again."""
    return (begin + unit * ((size_bytes - len(begin) - len(end)) // len(unit)) + end).encode()


def keys(count: int) -> bytes:
    """An object of that many keys."""
    return ("{" + ",".join(f'"k{number}":1' for number in range(count)) + "}").encode()


# By what they are made of: those that were slow, and the slowest that the search finds now.
WORST: dict[str, tuple[str, str, bytes]] = {
    "escaped quotes without an end": (PLANS, JSON, full('{"a":"', '\\"', size_bytes=JSON_LIMIT_BYTES)),
    "quotes": (FILES, JSON, full("", '"')),
    "brackets": (FILES, JSON, full("", "[")),
    "empty lists": (PLANS, JSON, full("[", "[],", "[]]", JSON_LIMIT_BYTES)),
    "as many lists as may be": (FILES, JSON, full("[", "[],", "[]]", 299_900)),
    "as many keys as may be": (FILES, JSON, keys(39_999)),
    "keys that no plan has": (PLANS, JSON, keys(3_300)),
    "digits": (PLANS, JSON, full("", "9", size_bytes=JSON_LIMIT_BYTES)),
    "halves of surrogate pairs": (FILES, JSON, full('"', "\\ud800", '"')),
    "batch sizes": (
        PLANS,
        JSON,
        json.dumps({"rate_rps": 1, "bounds": {"batch_sizes": ["x"] * 6_500}}).encode(),
    ),
    "configurations": ("/v1/pipelines/ocr/apply", JSON, b'{"configs":[' + b"1," * 16_000 + b"1]}"),
    "YAML: keys again and again": (FILES, YAML, full("", "a: 1\n")),
    "YAML: a list": (FILES, YAML, full("[", "1,", "]")),
    "YAML: anchors": (FILES, YAML, full("", "- &a x\n")),
    "YAML: directives": (FILES, YAML, full("", "%TAG !a! b\n")),
    "YAML: text over many lines": (FILES, YAML, full("a: >\n", "  x\n")),
}


def posted(place: tuple[str, int], path: str, kind: str, body: bytes) -> int:
    """The status of the answer to that body."""
    connection = http.client.HTTPConnection(*place, timeout=300)
    try:
        connection.request("POST", path, body, {"Content-Type": kind})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture(scope="module", autouse=True)
def settled() -> None:
    """The garbage collector leaves present objects alone, as the service has it once it has started."""
    settle()


@pytest.fixture(scope="module")
def services() -> ApiContext:
    return replace(FakeWorld().play(5).services(), limits=ApiLimits(1e9))


@pytest.mark.live
def test_r1_the_event_loop_goes_on_whatever_a_body_holds(case: Case, services: ApiContext) -> None:
    pulse, late_s, statuses = Pulse(), {}, set()
    with served(services, pulse=pulse) as place:
        posted(place, PLANS, JSON, b"{}")
        for name, (path, kind, body) in WORST.items():
            # The least of some tries: the machine has others to serve too, a slow parser is slow each time.
            for _ in range(TRIES):
                pulse.latest_s = 0.0
                statuses.add(posted(place, path, kind, body))
                late_s[name] = min(late_s.get(name, 9.0), pulse.latest_s)
                if late_s[name] < 0.03:
                    break
    assert statuses <= {400, 413, 422}
    worst = max(late_s, key=lambda name: late_s[name])
    case.note("worst input", worst)
    case.note("inputs of up to 1 MB", len(WORST))
    case.at_most("event loop late (s)", late_s[worst], 0.05)


def test_r1_no_body_is_read_before_its_sender_is_known(case: Case, services: ApiContext) -> None:
    read: list[int] = []
    taken = gate._read

    async def counted(*arguments: object) -> bytes:
        body = await taken(*arguments)  # type: ignore[arg-type]
        read.append(len(body))
        return body

    api = ApiClient(replace(services, authenticators=(Nobody(),)))
    original, gate._read = gate._read, counted  # type: ignore[assignment]
    try:
        answers = {
            api("POST", path, content=body, headers={"Content-Type": kind}).status_code
            for path, kind, body in WORST.values()
        }
    finally:
        gate._read = original
    case.equal("answers", answers, {401})
    case.equal("bodies read", read, [])


def test_r1_a_refusal_reaches_a_client_that_is_still_sending(case: Case, services: ApiContext) -> None:
    with served(services) as place:
        statuses = {posted(place, "/v1/nothing", JSON, full("", " ", size_bytes=60_000)) for _ in range(20)}
    case.equal("answers to 60 kB for no route", statuses, {404})


def slow(parsers: Iterator[Parser]) -> list[SlowestInput]:
    return [search(parser, ROUNDS) for parser in parsers]


@pytest.mark.live
def test_r4_no_parser_is_slow_for_the_worst_input_that_a_search_finds(case: Case) -> None:
    measured = slow(iter(PARSERS()))
    worst = max(measured, key=lambda each: each.seconds / each.bound_s)
    case.note("parsers", len(measured))
    case.note("worst", f"{worst.parser}: {worst.shape.unit!r} × n")
    case.seeds = f"{ROUNDS} inputs a parser"
    case.equal("slow", [each.parser for each in measured if each.is_slow], [])


HOSTILE_BYTES = 100_000
HOSTILE: dict[str, tuple[str, bytes]] = {
    "JSON, a key twice": (JSON, keys(9_000)[:-1] + b',"k8999":1}'),
    "JSON, deep": (JSON, full("", "[", size_bytes=HOSTILE_BYTES)),
    "JSON, wide": (JSON, full('{"apiVersion":"ipa/v1","stages":[', "{},", "{}]}", HOSTILE_BYTES)),
    "JSON, 25 000 batch sizes": (JSON, full('{"bounds":{"batch_sizes":[', "1,2,", "1]}}", HOSTILE_BYTES)),
    "JSON, 7 000 variants": (
        JSON,
        json.dumps({"stages": [{"variants": [{"name": f"v{number}"} for number in range(6_000)]}]}).encode(),
    ),
    "YAML, a key again and again": (YAML, full("", "a: 1\n", size_bytes=HOSTILE_BYTES)),
    "YAML, deep": (YAML, full("", "[", size_bytes=HOSTILE_BYTES)),
    "YAML, wide": (YAML, full("", "- - 1\n", size_bytes=HOSTILE_BYTES)),
    "YAML, flow keys": (YAML, full("{", "a,", "}", HOSTILE_BYTES)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_r4_hostile_files_are_refused_at_once(case: Case, services: ApiContext, name: str) -> None:
    kind, body = HOSTILE[name]
    answer = ApiClient(services)("POST", FILES, content=body, headers={"Content-Type": kind})
    case.equal(
        "answer", (answer.status_code, answer.headers["content-type"]), (422, "application/problem+json")
    )
    case.note("kB", len(body) // 1000)
    case.at_most("bytes of the answer", len(answer.content), 150_000)


@pytest.mark.live
@pytest.mark.parametrize("name", HOSTILE)
def test_r4_a_hostile_file_takes_little_of_the_cpu(case: Case, services: ApiContext, name: str) -> None:
    kind, body = HOSTILE[name]
    api = ApiClient(services)
    spent_s = []
    for _ in range(TRIES):
        began_s = time.process_time()
        api("POST", FILES, content=body, headers={"Content-Type": kind})
        spent_s.append(time.process_time() - began_s)
        if spent_s[-1] < 0.03:
            break
    case.at_most("CPU (s)", min(spent_s), 0.05)


@pytest.mark.parametrize(
    ("body", "is_refused"),
    [
        (b"[" * limits.MOST_DEEP + b"]" * limits.MOST_DEEP, False),
        (b"[" * (limits.MOST_DEEP + 1) + b"]" * (limits.MOST_DEEP + 1), True),
        (b'{"a":[' * 17 + b"]}" * 17, True),
        (b'{"a":[' * 16 + b"]}" * 16, False),
        (b'["' + b"[" * 1000 + b'"]', False),
        (b'["\\"' + b"[" * 1000 + b'"]', False),
        (b'["\\\\",' + b"[" * 40 + b"]" * 40 + b"]", True),
        (b"[" + b"1," * (limits.MOST_VALUES - 10) + b"1]", False),
        (b"[" + b"1," * limits.MOST_VALUES + b"1]", True),
        (b'["' + b"," * limits.MOST_VALUES + b'"]', False),
        (keys(limits.MOST_MEMBERS), False),
        (keys(limits.MOST_MEMBERS + 1), True),
    ],
)
def test_r4_depth_and_number_are_those_of_values_not_of_text(
    case: Case, body: bytes, is_refused: bool
) -> None:
    case.equal("refused", bool(structure_fault(body)), is_refused)
