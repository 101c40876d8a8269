"""guardrails.yaml -> Guardrails."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from ipa.files.document import Document, Pointer, unknown
from ipa.files.faults import check
from ipa.files.kinds.guardrails import GuardrailsFile
from ipa.model.guardrails import GuardrailRule, Guardrails, Measure

_RULE = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*")
KNOWN = tuple(measure.value for measure in Measure)
_EXAMPLE = 'write a measure, <, <=, > or >=, and a number, as "slo_ratio < 0.99"'
NEEDS_PRICE = "give it some, or the guardrails usd_per_core_hour"


def guardrails_in(document: Document) -> Guardrails:
    """The guardrails in the document; InputError lists every problem."""
    file = check(document, GuardrailsFile)
    data = document.sound() or {}
    rules = _rules(document, data, ())
    by_pipeline = {
        name: _rules(document, entry or {}, ("pipelines", name))
        for name, entry in (data.get("pipelines") or {}).items()
    }
    if "trace" in data and "workload" in data:
        document.problem(("workload",), "there is a trace already; give one of the two", at_key=True)
    document.raise_problems()
    assert file is not None, "without a file there are problems"
    given = {**file.given(), "fail_if": rules}
    given.pop("pipelines", None)
    return Guardrails(**given, by_pipeline=by_pipeline, path=document.path)


def _rules(document: Document, data: Mapping[str, Any], pointer: Pointer) -> tuple[GuardrailRule, ...]:
    """The rules there; what is none is noted."""
    given, place = data.get("fail_if") or [], (*pointer, "fail_if")
    places = [place] if isinstance(given, str) else [(*place, at) for at in range(len(given))]
    texts = [given] if isinstance(given, str) else given
    found = [
        _rule(document, text, where) for where, text in zip(places, texts, strict=True) if text is not None
    ]
    return tuple(rule for rule in found if rule is not None)


def _rule(document: Document, text: str, where: Pointer) -> GuardrailRule | None:
    parts = _RULE.fullmatch(text)
    if parts is None:
        document.problem(where, f"{document.shown(where, text)} is no rule; {_EXAMPLE}")
        return None
    name, comparison, number = parts.groups()
    before = len(document.problems)
    if name not in KNOWN:
        document.problem(where, f"there is no measure {name!r}; {unknown(name, KNOWN)}")
    try:
        limit = float(number)
    except ValueError:
        limit = float("nan")
    if not isfinite(limit):
        document.problem(where, f"{number!r} is no number; {_EXAMPLE}")
    if len(document.problems) > before:
        return None
    return GuardrailRule(Measure(name), comparison, limit, document.marks.get(where, (0, 0))[0])
