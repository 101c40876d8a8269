"""Names and words that are meant to be read as a query, a page, a formula or a line of a log."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from time import perf_counter

import pytest

from ipa.adapters.prometheus.queries import LOCAL, ON_CLUSTER, Query, QueryShape, Selector, exact, queries
from ipa.files.document import parse as parse_document
from ipa.model.errors import InputError
from ipa.model.pipeline import Pipeline, Sla, Stage, Variant
from ipa.report.blocks import Heading, Paragraph, Table, TableCell, as_page
from ipa.targets.seldon.metrics import EXECUTOR
from tests.fakes.promql import parse
from tests.fakes.services import ApiClient, FakeWorld
from tests.faults.table import Case

HOSTILE = (
    'x"} or vector(1) or ipa{a="',
    'x"}[5m])) or sum(up{a="',
    'x\\"} or vector(1) #',
    'x\\\\"} or vector(1) #',
    'x\n"} or vector(1)',
    "x'} or vector(1)",
    "x`} or vector(1)",
    "x{{ $labels.instance }}",
    "x\\u0022} or vector(1)",
    "x#",
    "\\",
    '"',
    "\n",
    ".*",
    "x|y",
)


def shapes(value: str) -> list[Query]:
    """Each shape of query with that label value."""
    selector = Selector("ipa_metric", exact({"pipeline": value, "other": value}))
    return [
        Query(QueryShape.RATE, selector, (), 5.0),
        Query(QueryShape.RATE, selector, ("stage",), 5.0),
        Query(QueryShape.GAUGE, selector),
        Query(QueryShape.AGE, selector),
    ]


def outside(text: str) -> str:
    """The part of a query that is not within quotes."""
    return re.sub(r'"(?:[^"\\]|\\.)*"', '""', text, flags=re.DOTALL)


def test_i7_label_values_stay_values(case: Case) -> None:
    injected = checked = 0
    for value in HOSTILE:
        for query, plain in zip(shapes(value), shapes("x"), strict=True):
            checked += 1
            injected += parse(str(query)) != query or outside(str(query)) != outside(str(plain))
        for dialect in (LOCAL, ON_CLUSTER, EXECUTOR):
            made, plain_made = (
                queries(Pipeline(name, (Stage(name, (Variant("v"),)),), Sla(1.0, 99.0), {}), dialect)
                for name in (value, "x")
            )
            for field in ("age", "arrivals", "latency", "stage_age", "stage_arrivals", "stage_latency"):
                checked += 1
                texts = [str(each[field]) for each in (made, plain_made)]
                injected += outside(texts[0]) != outside(texts[1]) or "\n" in texts[0]
    case.note("queries", checked)
    case.equal("injected queries", injected, 0)


def test_i7_such_names_are_no_names(case: Case, tmp_path: Path) -> None:
    from tests.property.test_files_properties import GOOD, problems_of

    refused = 0
    for value in HOSTILE:
        data = json.loads(json.dumps(GOOD["pipeline"][0]))
        data["name"] = value
        refused += any(problem.pointer == "/name" for problem in problems_of("pipeline", data, tmp_path))
    case.equal("refused", refused, len(HOSTILE))


@pytest.mark.live
def test_i7_patterns_take_no_longer_for_longer_text(case: Case) -> None:
    """A mark of a pattern that backtracks slowly: time grows with the length, not with its square."""
    slow = 0
    for make in (
        lambda n: parse('sum (rate(a{x="' + "\\\\" * n),
        lambda n: parse("sum (a{" + 'a="",' * n + "}"),
        lambda n: parse("sum by (" + "a" * n),
        lambda n: _document("a: " + "1" * n),
        lambda n: _document("a: " + "1e" * n),
        lambda n: _document("a: ." + "0" * n + "x"),
    ):
        took_s = []
        for length in (2_000, 16_000):
            # The best of three, since others use the machine too.
            took_s.append(min(_timed(make, length) for _ in range(3)))
        # Eight times the length: 8 times as long, where a square would be 64.
        slow += took_s[1] > 40 * took_s[0] + 0.05
    case.equal("patterns slower than the length", slow, 0)


def _timed(make: object, length: int) -> float:
    began_s = perf_counter()
    make(length)  # type: ignore[operator]
    return perf_counter() - began_s


def _document(text: str) -> None:
    try:
        parse_document(text, "x")
    except InputError:
        return


MARKUP = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<svg/onload=alert(1)>",
    "</title><script>alert(1)</script>",
    "&lt;script&gt;",
    "javascript:alert(1)",
    "<!-- -->",
    "' onmouseover='alert(1)",
)


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[tuple[str, tuple[str, ...]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.opened.append((tag, tuple(sorted(name for name, _ in attributes))))


def tags_of(text: str) -> list[tuple[str, tuple[str, ...]]]:
    tags = Tags()
    tags.feed(text)
    return tags.opened


def report(word: str) -> str:
    table = Table(word, [word, "n"], [[[TableCell(word), TableCell("1")]]])
    return as_page(word, word, [Heading(word), Paragraph(word), table])


@pytest.mark.parametrize("word", MARKUP)
def test_i8_a_report_shows_markup_as_text(case: Case, word: str) -> None:
    case.title += f": {word[:12]}"
    plain = tags_of(report("x"))
    case.equal("tags added", [tag for tag in tags_of(report(word)) if tag not in plain], [])
    case.equal("tags", len(tags_of(report(word))), len(plain))


def test_i8_the_services_pages_have_no_markup_of_a_request(case: Case) -> None:
    world = FakeWorld().play(3)
    api = ApiClient(world.services())
    scripts = quoted = 0
    sent = 0
    for word in MARKUP:
        assert api.post("/v1/pipelines/ocr/pause", {"reason": word, "by": word}).status_code == 200
        for path in ("/", f"/problems/{word}", f"/v1/pipelines/{word}", "/v1/pipelines/ocr/status"):
            answer = api.get(path)
            sent += 1
            if "html" in answer.headers["content-type"]:
                scripts += word in answer.text
            # A browser that is given JSON, and told not to guess, runs none of it.
            quoted += "html" not in answer.headers["content-type"] and (
                "json" not in answer.headers["content-type"]
                or answer.headers.get("x-content-type-options") != "nosniff"
            )
    policy = api.get("/").headers["content-security-policy"]
    case.note("answers", sent)
    case.equal("markup in a page", scripts, 0)
    case.equal("answers that a browser may render as a page", quoted, 0)
    case.equal(
        "pages that allow inline scripts", "'unsafe-inline'" in _directive(policy, "script-src"), False
    )


def _directive(policy: str, name: str) -> str:
    """The sources of a directive, or of the default."""
    directives = {part.split()[0]: part for part in policy.split(";") if part.strip()}
    return directives.get(name, directives.get("default-src", ""))


def test_i8_the_page_makes_no_markup_of_text(case: Case, root: Path) -> None:
    """The page's scripts have no sink that takes text for markup."""
    sinks = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc")
    uses = [
        f"{path.name}: {match.group()}"
        for path in sorted((root / "ipa" / "api" / "page").glob("*.js"))
        for match in sinks.finditer(path.read_text())
    ]
    case.equal("sinks", uses, [])


def test_i8_words_of_people_stay_words(case: Case) -> None:
    """A reason that looks like YAML, a formula or a template comes back as it was said."""
    words = (
        "=cmd|'/c calc'!A0",
        "+1+1",
        "@SUM(A1)",
        "-2+3",
        "a: b",
        "{{ .Values }}",
        "| pipe",
        "\t=1",
        "# no",
        *MARKUP,
    )
    changed, api = 0, ApiClient(FakeWorld().play(1).services())
    for word in words:
        api.post("/v1/pipelines/ocr/pause", {"reason": word})
        changed += api.get("/v1/pipelines/ocr/status").json()["control"]["paused_reason"] != word
    case.note("words", len(words))
    case.equal("words changed", changed, 0)
    # There is no export to spreadsheets: nothing of the service answers with CSV.
    paths = ApiClient(FakeWorld().services()).get("/openapi.json").text
    case.equal("CSV exports to escape for", "text/csv" in paths, False)
