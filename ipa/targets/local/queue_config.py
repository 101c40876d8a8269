"""Telling a queue its configuration, and finding out whether it still has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from ipa.targets.local.front import Front


@dataclass(frozen=True, slots=True)
class QueueOrder:
    """The configuration of a queue: batch size, batch timeout, and the variants of its replicas by URL."""

    batch_size: int
    batch_timeout_s: float
    replicas: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As the queue's admin address takes it."""
        replicas = [{"url": url, "variant": variant} for url, variant in self.replicas.items()]
        return {
            "batch_size": self.batch_size,
            "batch_timeout_s": self.batch_timeout_s,
            "replicas": replicas,
        }

    def arguments(self) -> list[str]:
        """As flags of a queue that is started."""
        given = ["--batch-size", str(self.batch_size), "--batch-timeout-s", str(self.batch_timeout_s)]
        for url, variant in self.replicas.items():
            given += ["--replica", f"{variant}={url}"]
        return given


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Report of a queue: its configuration, and the URLs of replicas that drain or seem to hang."""

    order: QueueOrder
    draining: tuple[str, ...]
    suspects: tuple[str, ...]


def read_queue(client: httpx.Client, queue: Front) -> QueueReport:
    """Read the report of a queue; httpx.HTTPError or ValueError if it sends none or an invalid one."""
    return _call(client, queue, "GET")


def write_queue(client: httpx.Client, queue: Front, order: QueueOrder) -> QueueReport:
    """Configure a queue and return its report; errors as `read_queue`."""
    return _call(client, queue, "PUT", json=order.to_json())


def _call(client: httpx.Client, queue: Front, method: str, **body: Any) -> QueueReport:
    headers = {"authorization": f"Bearer {queue.token}"}
    response = client.request(method, f"{queue.url}/admin/config", headers=headers, **body)
    response.raise_for_status()
    try:
        seen = response.json()
        replicas = {str(it["url"]): str(it["variant"]) for it in seen["replicas"]}
        order = QueueOrder(seen["batch_size"], seen["batch_timeout_s"], replicas)
        return QueueReport(order, tuple(seen["draining"]), tuple(seen["suspects"]))
    except (LookupError, TypeError) as error:
        raise ValueError(f"{queue.url} answered {response.text[:300]!r}") from error
