"""JSON files with a digest of their own contents: saved plans, and approvals of reviews."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ipa.control.canonical import canonical_json, digest
from ipa.files.reading import read_json
from ipa.model.errors import InputError, NotFoundError

# Digits of a digest in a message: enough to tell two files apart.
DIGITS = 12


def write_sealed(file: Path, kind: str, values: Mapping[str, Any]) -> None:
    """Write the file, the same bytes for the same values; InputError if it cannot be written."""
    body = {"apiVersion": "ipa/v1", "kind": kind, **values}
    text = json.dumps({**body, "digest": _seal(body)}, indent=1, ensure_ascii=False)
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error


def read_sealed(file: Path, kind: str, what: str, hint: str) -> dict[str, Any]:
    """The values in the file, `what` in words. InputError: it is none of that kind, or was changed."""
    try:
        body = read_json(file)
    except (InputError, NotFoundError) as error:
        raise InputError(error.message, hint=hint) from error
    if not isinstance(body, dict) or body.get("kind") != kind:
        raise InputError(f"{file} is not {what}", hint=hint)
    if body.pop("digest", None) != _seal(body):
        raise InputError(f"{file} was changed since it was saved: its digest does not match", hint=hint)
    return body


def changed_files(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """The differences between two sets of digests by name, in words."""
    for name in sorted({*before, *after}):
        then, now = before.get(name), after.get(name)
        if then is None:
            yield f"{name} is new"
        elif now is None:
            yield f"{name} is gone"
        elif then != now:
            yield f"{name} was changed: sha256 {then[:DIGITS]} then, {now[:DIGITS]} now"


def _seal(body: Mapping[str, Any]) -> str:
    return f"sha256:{digest(canonical_json(body))}"
