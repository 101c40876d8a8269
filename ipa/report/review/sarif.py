"""A review for platforms that show it at the lines of files: JUnit XML and SARIF 2.1.0."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from ipa.report.review.result import Review, Reviewed, cells

FILE, GUARDRAIL, NO_PLAN, EVIDENCE, CHANGE = "file", "guardrail", "no-plan", "evidence", "change"
RULES = {
    FILE: "A file cannot be used.",
    GUARDRAIL: "The change breaks a guardrail.",
    NO_PLAN: "No plan carries a recorded rate.",
    EVIDENCE: "A profile changed without a new measurement.",
    CHANGE: "The change is above the threshold.",
}
HELP = "docs/how-to/review-changes.md"


def sarif(review: Review) -> str:
    """The log as JSON."""
    driver = {
        "name": "ipa ci",
        "version": review.inputs.version,
        "rules": [
            {"id": rule, "shortDescription": {"text": text}, "help": {"text": f"See {HELP}."}}
            for rule, text in RULES.items()
        ],
    }
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": list(_results(review))}
        ],
    }
    return json.dumps(log, indent=1, ensure_ascii=False) + "\n"


def _results(review: Review) -> Iterator[dict[str, Any]]:
    for problem in review.problems:
        place = _place(problem.path, problem.line, problem.column)
        yield _result(FILE, "error", problem.message, place, f"{problem.path}{problem.pointer}")
    for each in review.told:
        yield from _of(review, each)


def _of(review: Review, reviewed: Reviewed) -> Iterator[dict[str, Any]]:
    here = _place(reviewed.path, 1, 1)
    for finding in reviewed.findings:
        words = f"{reviewed.pipeline}: {finding.words}"
        if finding.path:
            yield _result(EVIDENCE, "error", words, _place(finding.path, 1, 1), finding.path)
            continue
        if finding.rule is None:
            yield _result(NO_PLAN, "error", words, here, reviewed.pipeline + finding.words)
            continue
        rule = finding.rule
        made = _result(
            GUARDRAIL, "error", f"{words}; it fails if {rule}", here, f"{reviewed.pipeline} {rule}"
        )
        said_at = {**_place(review.guardrails.path, rule.line, 1), "message": {"text": "The guardrail"}}
        yield {**made, "relatedLocations": [said_at]}
    if reviewed.is_notable and not reviewed.findings:
        moved = ", ".join(f"{name} {text}" for name, text in cells(review, reviewed).items())
        words = f"{reviewed.pipeline}: {reviewed.status.value}, {moved}"
        yield _result(CHANGE, "note", words, here, reviewed.pipeline)


def _result(rule: str, level: str, text: str, place: dict[str, Any], what: str) -> dict[str, Any]:
    return {
        "ruleId": rule,
        "ruleIndex": list(RULES).index(rule),
        "level": level,
        "message": {"text": text},
        "locations": [place],
        "partialFingerprints": {"ipa/v1": sha256(f"{rule} {what}".encode()).hexdigest()},
    }


def _place(path: str, line: int, column: int) -> dict[str, Any]:
    region = {"startLine": max(line, 1), "startColumn": max(column, 1)}
    artifact = {"uri": quote(path), "uriBaseId": "%SRCROOT%"}
    return {"physicalLocation": {"artifactLocation": artifact, "region": region}}


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    file: str
    line: int
    failure: str = ""


def junit(review: Review) -> str:
    """The XML document."""
    suites = {each.pipeline: list(_cases(review, each)) for each in review.pipelines}
    if review.problems or not suites:
        suites["files"] = [
            _Case(f"{it.path}:{it.line}", it.path, it.line, str(it)) for it in review.problems
        ] or [_Case("nothing changed", "", 0)]
    root = ElementTree.Element("testsuites", {"name": "ipa ci", **_counts(chain(*suites.values()))})
    for name, cases in suites.items():
        suite = ElementTree.SubElement(root, "testsuite", {"name": name, **_counts(cases)})
        for case in cases:
            place = {"file": case.file, "line": str(case.line)} if case.file else {}
            entry = ElementTree.SubElement(suite, "testcase", {"classname": name, "name": case.name, **place})
            if case.failure:
                words = {"message": case.failure, "type": "guardrail" if review.pipelines else "input"}
                ElementTree.SubElement(entry, "failure", words).text = case.failure
    ElementTree.indent(root)
    return ElementTree.tostring(root, "unicode", xml_declaration=True) + "\n"


def _counts(cases: Iterable[_Case]) -> dict[str, str]:
    listed = list(cases)
    return {"tests": str(len(listed)), "failures": str(sum(bool(case.failure) for case in listed))}


def _cases(review: Review, reviewed: Reviewed) -> Iterator[_Case]:
    broken = {finding.rule: finding for finding in reviewed.findings if finding.rule}
    plain = [finding for finding in reviewed.findings if finding.rule is None]
    unplanned = "; ".join(finding.words for finding in plain if not finding.path)
    yield _Case("every recorded rate has a plan", reviewed.path, 1, unplanned)
    for finding in plain:
        if finding.path:
            yield _Case("a changed profile has a measurement", finding.path, 1, finding.words)
    for rule in reviewed.rules:
        words = f"fails if {rule}: {broken[rule].words}" if rule in broken else ""
        yield _Case(f"not {rule}", review.guardrails.path, rule.line, words)
