"""What the OpenAPI document says beyond what the routes' types do."""

from __future__ import annotations

from typing import Any

from ipa.api import problems
from ipa.api.preconditions import REQUIRED


def complete(schema: dict[str, Any]) -> None:
    """Add the problems that any operation may answer with, and which headers must be there."""
    problems.document_in(schema)
    for methods in schema["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "header" and parameter["name"].lower() in REQUIRED:
                    _require(parameter)


def _require(parameter: dict[str, Any]) -> None:
    """Its absence has a status of its own, so to the routes it is optional."""
    parameter["required"] = True
    parameter["schema"] = {"type": "string", "minLength": 1, "title": parameter["schema"].get("title", "")}
