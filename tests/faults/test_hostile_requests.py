"""Requests that are poisoned, or name what is none of theirs."""

from __future__ import annotations

import json

from tests.fakes.services import ApiClient, FakeWorld
from tests.faults.table import Case

POISON: dict[str, bytes] = {
    "NaN": b'{"rate_rps": NaN, "reason": NaN, "mode": NaN, "configs": NaN, "for_s": NaN}',
    "Infinity": b'{"rate_rps": Infinity, "reason": -Infinity, "mode": Infinity, "configs": [Infinity]}',
    "1e400": b'{"rate_rps": 1e400, "reason": 1e400, "mode": 1e400, "configs": [1e400]}',
    "-1e400": b'{"rate_rps": -1e400}',
    "a million digits": b'{"rate_rps": ' + b"9" * 60_000 + b"}",
    "duplicate keys": b'{"rate_rps": 1, "rate_rps": 2, "mode": "active", "mode": "advisory"}',
    "a lone surrogate": b'{"rate_rps": 5, "reason": "\\ud800", "by": "\\udfff", "mode": "\\ud800"}',
    "a surrogate as key": b'{"\\ud800": 1}',
    "NUL": b'{"reason": "a\\u0000b", "by": "\\u0000", "rate_rps": 1, "mode": "active"}',
    "10 000 deep": b"[" * 10_000 + b"]" * 10_000,
    "10 000 deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "not UTF-8": b'{"reason": "\xff\xfe"}',
    "UTF-16": '{"reason": "x"}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "nothing": b"",
    "a number": b"5",
    "null": b"null",
    "text": b'"configs"',
    "negative zero": b'{"rate_rps": -0.0}',
    "smallest": b'{"rate_rps": 5e-324}',
    "whole numbers of all sizes": b'{"configs": [{"stage": "detect", "variant": "v4-320", "batch_size": '
    + b"9" * 400
    + b', "cores": 1e308, "replicas": '
    + b"9" * 400
    + b"}]}",
    "true for numbers": b'{"rate_rps": true, "configs": [{"replicas": true}]}',
}


def operations(api: ApiClient) -> list[tuple[str, str]]:
    """Every method and address that takes a body."""
    paths = api.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path)
        for path, methods in paths.items()
        for method, one in methods.items()
        if "requestBody" in one
    ]


def test_i3_poisoned_json(case: Case) -> None:
    api = ApiClient(FakeWorld().play(5).services())
    faults: list[str] = []
    unreadable: list[str] = []
    sent = refused = 0
    for method, path in operations(api):
        address = path.replace("{pipeline}", "ocr").replace("{stage}", "detect")
        for name, body in POISON.items():
            answer = api(method, address, content=body, headers={"Content-Type": "application/json"})
            sent += 1
            refused += 400 <= answer.status_code < 500
            if answer.status_code >= 500:
                faults.append(f"{method} {path} {name}: {answer.status_code}")
            try:
                json.loads(answer.content.decode("utf-8"), parse_constant=_no_constant)
            except ValueError as error:
                unreadable.append(f"{method} {path} {name}: {error}")
    assert sent > 100
    case.note("requests", sent)
    case.note("refused", refused)
    case.equal("5xx", faults, [])
    case.equal("answers that are not JSON", unreadable, [])


# As long as headers may be; each digit made starlette before 0.49.1 look at all that follow.
RANGES = {"digits": "9" * 31_000, "ranges": "0-,1-," * 5_000, "one byte": "0-0"}


def test_r13_a_range_of_a_file_is_ignored(case: Case) -> None:
    api = ApiClient(FakeWorld().play(2).services())
    parts: list[str] = []
    paths = ("/assets/style.css", "/")
    for path in paths:
        whole = api.get(path).content
        for name, ranges in RANGES.items():
            answer = api.get(path, headers={"Range": f"bytes={ranges}"})
            if (answer.status_code, answer.content) != (200, whole):
                parts.append(f"{path} {name}: {answer.status_code}")
    case.note("requests", len(paths) * len(RANGES))
    case.equal("answered in part", parts, [])


# Each sent by a proxy, a load balancer or a content network that is known, and by no browser.
PROXIES = (
    *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "Via", "X-Real-IP", "X-Original-For"),
    *("True-Client-IP", "CF-Connecting-IP", "CF-Ray", "CDN-Loop", "Fastly-Client-IP", "X-Cluster-Client-IP"),
    *("X-Client-IP", "X-Original-Host", "X-Envoy-External-Address", "X-ProxyUser-IP", "X-Original-URL"),
)
BROWSERS = ("Accept-Language", "Origin", "Sec-Fetch-Site", "DNT", "If-None-Match", "Priority", "Cookie")


def test_r24_an_open_service_knows_a_proxy_by_its_headers(case: Case) -> None:
    api = ApiClient(FakeWorld().play(2).services())

    def status(name: str) -> int:
        return api.get("/v1/pipelines", headers={name: "http://127.0.0.1:8080"}).status_code

    case.note("headers", len(PROXIES))
    case.equal("answered through a proxy", [name for name in PROXIES if status(name) != 403], [])
    detail = api.get("/v1/pipelines", headers={"Via": "1.1 proxy"}).json()["detail"]
    case.equal("names the header and the remedy", "via" in detail and "IPA_AUTH" in detail, True)
    case.equal("browsers refused", [name for name in BROWSERS if status(name) != 200], [])


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


NAMES = (
    "..",
    "../x",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "%2e%2e%5c%2e%2e%5cwindows",
    "....//....//etc/passwd",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "ocr%00",
    "ocr%00.yaml",
    "C:%5Cwindows",
    "%5C%5Cserver%5Cshare",
    "con",
    "ocr%0d%0aX-Injected:%201",
    "%c0%ae%c0%ae/",
    "ocr/../../../etc/passwd",
    "~root",
    "OCR",
    "%F0%9F%92%A9",
    "a" * 4000,
)


def test_i4_paths_in_names_of_requests(case: Case) -> None:
    api = ApiClient(FakeWorld().play(5).services())
    leaked: list[str] = []
    wrong: list[str] = []
    sent = 0
    places = (
        "/v1/pipelines/{}",
        "/v1/pipelines/{}/status",
        "/v1/pipelines/{}/profiles/detect",
        "/v1/pipelines/ocr/profiles/{}",
        "/v1/pipelines/ocr/decisions/{}",
        "/v1/decisions/{}",
        "/assets/{}",
        "/problems/{}",
    )
    for place in places:
        for name in NAMES:
            answer = api.get(place.format(name))
            sent += 1
            if "root:" in answer.text or "x-injected" in answer.headers:
                leaked.append(place.format(name))
            # A client takes ".." out of the address before it sends it.
            if not 400 <= answer.status_code < 500 and "ocr" not in name and name != "..":
                wrong.append(f"{place.format(name)[:80]}: {answer.status_code}")
    case.note("requests", sent)
    case.equal("files read outside root", leaked, [])
    case.equal("answered other than 4xx", wrong, [])
