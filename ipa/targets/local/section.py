"""`local:` of a variant in pipeline files: its value, and how it is read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ipa.files.sections import TargetSection, TargetSections, Texts, present
from ipa.model.pipeline import Variant

KEY = "local"


@dataclass(frozen=True, slots=True)
class LocalRun:
    """A variant's settings on this machine.

    `implementation` and `parameters` fill MLServer's model-settings.json. `command` starts one replica; the
    words {python}, {port} and {model_dir} in it are replaced. Empty means MLServer.
    """

    implementation: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def local_of(variant: Variant) -> LocalRun | None:
    """The `local:` section of a variant; None if it has none."""
    found: LocalRun | None = variant.targets.get(KEY)
    return found


def _read(given: Mapping[str, Any], texts: Texts) -> LocalRun:
    run = {**given, **{key: texts(key) for key in ("env", "parameters")}}
    return LocalRun(**{**run, "command": tuple(given.get("command", ()))})


def _write(run: LocalRun) -> Mapping[str, Any]:
    return present(
        {
            "implementation": run.implementation,
            "parameters": dict(run.parameters) or None,
            "command": list(run.command) or None,
            "env": dict(run.env) or None,
        }
    )


_TEXT = {"$ref": "#/$defs/text"}
_SCHEMA = {
    "type": "object",
    "properties": {
        "implementation": _TEXT,
        "parameters": {"$ref": "#/$defs/parameters"},
        "command": {"type": "array", "items": _TEXT, "maxItems": 100},
        "env": {"$ref": "#/$defs/env"},
    },
    "required": ["implementation"],
    "additionalProperties": False,
}
SECTIONS = TargetSections(KEY, variant=TargetSection(_read, _write, _SCHEMA))
