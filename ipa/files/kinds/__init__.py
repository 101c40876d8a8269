"""Every kind of file, declared once: the keys, their types, units and words."""

from __future__ import annotations

import json
from importlib import resources

from ipa.files.kinds.base import DeclaredFile, json_schema

KINDS = ("pipeline", "profile", "guardrails")


def file_kind(kind: str) -> type[DeclaredFile]:
    """The declaration of that kind of file."""
    # Each knows how its kind is read, and so this package.
    from ipa.files.guardrails import GuardrailsFile
    from ipa.files.kinds.pipeline_file import PipelineFile
    from ipa.files.profiles import ProfileFile

    kinds: dict[str, type[DeclaredFile]] = {
        "pipeline": PipelineFile,
        "profile": ProfileFile,
        "guardrails": GuardrailsFile,
    }
    return kinds[kind]


def schema_text(kind: str) -> str:
    """The published JSON Schema (draft 2020-12) of `pipeline`, `profile` or `guardrails`."""
    return resources.files("ipa.files").joinpath("schema", f"{kind}.schema.json").read_text("utf-8")


def schema_of(kind: str, file: type[DeclaredFile]) -> str:
    """The text of the schema of that declaration."""
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://ipa-serving.github.io/schema/v1/{kind}.schema.json",
        "title": kind.capitalize(),
        "description": file.description_of_kind,
    }
    return json.dumps({**head, **json_schema(file)}, indent=2, ensure_ascii=False) + "\n"
