"""An entry of the record as a CloudEvent, and its signature as Standard Webhooks has it."""

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
# What Standard Webhooks asks of a secret.
LEAST_BYTES, MOST_BYTES = 24, 64
TYPE_PREFIX = "dev.ipa."
MEDIA_TYPE = "application/cloudevents+json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Message:
    """One event: its id, the same however often it is sent, and its bytes."""

    id: str
    body: bytes


def message_of(entry: Recorded, source: str) -> Message:
    """The entry as a structured CloudEvent 1.0 from that source; its data is the entry and its digest.

    Whoever keeps the events has with them the heads that show whether the record was changed since.
    """
    values = entry.values
    # The digest tells apart entries of the same place in a store that was made anew.
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
    """The key of a secret as Standard Webhooks writes it; ValueError says what is wrong, never the secret."""
    if not text.startswith(PREFIX):
        raise ValueError(f"does not begin with {PREFIX}")
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is no base64 after {PREFIX}") from error
    if not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(f"has {len(key)} bytes, not {LEAST_BYTES} to {MOST_BYTES}")
    return key


def signature(key: bytes, name: str, timestamp: int, body: bytes) -> str:
    """The value of webhook-signature for that message at that time."""
    signed = b".".join((name.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def headers_of(message: Message, key: bytes, now: datetime) -> dict[str, str]:
    """The headers of an attempt to deliver the message at that time."""
    timestamp = int(now.timestamp())
    return {
        "content-type": MEDIA_TYPE,
        "user-agent": "ipa-serving",
        "webhook-id": message.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(key, message.id, timestamp, message.body),
    }
