"""Additions to the OpenAPI document that the types of routes do not give."""

from __future__ import annotations

import json
from typing import Any

from ipa.api import problems
from ipa.api.examples import BODIES
from ipa.api.preconditions import REQUIRED
from ipa.files.kinds import KINDS, schema_text

# An entity tag, or several.
TAG = r'^(W/)?"[^"]*"'


def complete(schema: dict[str, Any]) -> None:
    """Add the problems that any operation may answer with, and the headers that are required."""
    problems.document_in(schema)
    for kind in KINDS:
        schema["components"]["schemas"] |= file_schemas(kind)
    for name, body in BODIES.items():
        schema["components"]["schemas"][name]["examples"] = [body]
    for methods in schema["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "header" and parameter["name"].lower() in REQUIRED:
                    _require(parameter)


def file_schemas(kind: str) -> dict[str, Any]:
    """The published schema of that kind of file as components: itself and each of its definitions."""
    name = f"{kind.capitalize()}File"
    text = schema_text(kind).replace('"#/$defs/', f'"#/components/schemas/{name}.')
    whole: dict[str, Any] = json.loads(text)
    parts = whole.pop("$defs", {})
    for key in ("$schema", "$id"):
        whole.pop(key, None)
    return {name: whole, **{f"{name}.{part}": each for part, each in parts.items()}}


def _require(parameter: dict[str, Any]) -> None:
    """Mark a header as required: routes declare it as optional, since its absence has its own status."""
    parameter["required"] = True
    parameter["schema"] = {"type": "string", "minLength": 1, "title": parameter["schema"].get("title", "")}
    if parameter["name"].lower() == "if-match":
        # `*` matches anything, so it names no version.
        parameter["schema"]["pattern"] = TAG
