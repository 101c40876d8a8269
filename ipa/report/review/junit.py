"""A review as JUnit XML: a suite a pipeline, a case for each rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from xml.etree import ElementTree

from ipa.report.review.result import Review, Reviewed


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
    plain = [finding.words for finding in reviewed.findings if finding.rule is None]
    yield _Case("every recorded rate has a plan", reviewed.path, 1, "; ".join(plain))
    for rule in reviewed.rules:
        words = f"fails if {rule}: {broken[rule].words}" if rule in broken else ""
        yield _Case(f"not {rule}", review.guardrails.path, rule.line, words)
