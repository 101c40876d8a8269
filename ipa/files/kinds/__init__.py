"""Every kind of file, declared once: the keys, their types, units and words."""

from __future__ import annotations

from importlib import resources

KINDS = ("pipeline", "profile", "guardrails")


def schema_text(kind: str) -> str:
    """The published JSON Schema (draft 2020-12) of `pipeline`, `profile` or `guardrails`."""
    return resources.files("ipa.files").joinpath("schema", f"{kind}.schema.json").read_text("utf-8")
