"""Bodies in protobuf, which kubectl creates with, as JSON: as far as the tests need it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from tests.fakes.kube.store import Json

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\0"
# The fields of messages by number: a name, and the message that it is; str, bytes or none for a map of them.
FIELDS: dict[str, dict[int, tuple[str, Any]]] = {
    "ObjectMeta": {1: ("name", str), 3: ("namespace", str), 11: ("labels", {}), 12: ("annotations", {})},
    "Namespace": {1: ("metadata", "ObjectMeta")},
    "ServiceAccount": {1: ("metadata", "ObjectMeta")},
    "Secret": {1: ("metadata", "ObjectMeta"), 2: ("data", {}), 3: ("type", str)},
    "RoleBinding": {1: ("metadata", "ObjectMeta"), 2: ("subjects", ["Subject"]), 3: ("roleRef", "RoleRef")},
    "Subject": {1: ("kind", str), 2: ("apiGroup", str), 3: ("name", str), 4: ("namespace", str)},
    "RoleRef": {1: ("apiGroup", str), 2: ("kind", str), 3: ("name", str)},
}


def decoded(body: bytes) -> Json:
    """The object in the body; KeyError for a kind that is not known here."""
    assert body.startswith(MAGIC)
    unknown = dict(_fields(body[len(MAGIC) :]))
    of = {number: value.decode() for number, value in _fields(unknown[1])}
    return {"apiVersion": of[1], "kind": of[2], **_message(of[2], unknown[2])}


def _message(name: str, body: bytes) -> Json:
    made: Json = {}
    for number, value in _fields(body):
        if number not in FIELDS[name]:
            continue
        key, kind = FIELDS[name][number]
        if isinstance(kind, dict):
            entry = dict(_fields(value))
            text = base64.b64encode(entry.get(2, b"")) if key == "data" else entry.get(2, b"")
            made.setdefault(key, {})[entry[1].decode()] = text.decode()
        elif isinstance(kind, list):
            made.setdefault(key, []).append(_message(kind[0], value))
        elif kind is str:
            if value:
                made[key] = value.decode()
        else:
            made[key] = _message(kind, value)
    return made


def _fields(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and bytes of the fields that have a length; numbers are left out."""
    at = 0
    while at < len(body):
        tag, at = _varint(body, at)
        if tag & 7 == 0:
            _, at = _varint(body, at)
            continue
        assert tag & 7 == 2, f"wire type {tag & 7}"
        length, at = _varint(body, at)
        yield tag >> 3, body[at : at + length]
        at += length


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = body[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
