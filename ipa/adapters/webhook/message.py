"""An entry of the record as a CloudEvent, signed as in Standard Webhooks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime

from ipa.control.audit.record import Recorded
from ipa.control.canonical import canonical_json

PREFIX = "whsec_"
# The length of a secret in Standard Webhooks.
LEAST_BYTES, MOST_BYTES = 24, 64
TYPE_PREFIX = "dev.ipa."
MEDIA_TYPE = "application/cloudevents+json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Message:
    """An event: its id, the same in every attempt, and its bytes."""

    id: str
    body: bytes


def message_of(entry: Recorded, source: str) -> Message:
    """Return the entry as a structured CloudEvent 1.0; its data is the entry and its digest.

    A receiver that keeps the events can prove with the digests whether the record was changed since.
    """
    values = entry.values
    # The digest distinguishes entries with the same number in a store that was created anew.
    name = f"{entry.seq}-{entry.digest[:16]}"
    event = {
        "specversion": "1.0",
        "id": name,
        "source": source,
        "type": f"{TYPE_PREFIX}{values['kind']}",
        "subject": values["pipeline"],
        "time": values["at"],
        "datacontenttype": "application/json",
        "data": {"entry": values, "digest": entry.digest},
    }
    return Message(name, canonical_json(event).encode())


def secret_of(text: str) -> bytes:
    """Decode a secret of Standard Webhooks to its key; ValueError names the fault, never the secret."""
    if not text.startswith(PREFIX):
        raise ValueError(f"does not start with {PREFIX}")
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is not base64 after {PREFIX}") from error
    if not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(f"has {len(key)} bytes, not {LEAST_BYTES} to {MOST_BYTES}")
    return key


def signature(key: bytes, name: str, timestamp: int, body: bytes) -> str:
    """Return the value of webhook-signature for the message at that time."""
    signed = b".".join((name.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def headers_of(message: Message, key: bytes, now: datetime) -> dict[str, str]:
    """Return the headers of a delivery attempt at that time."""
    timestamp = int(now.timestamp())
    return {
        "content-type": MEDIA_TYPE,
        "user-agent": "ipa-serving",
        "webhook-id": message.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(key, message.id, timestamp, message.body),
    }
