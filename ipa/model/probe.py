"""A smoke request: its body, its transport, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ipa.model.forms import ShortDuration

# The Open Inference Protocol, version 2.
V2 = "v2"
# A pipeline answers within its SLA, which is seconds; a first request may load a model.
USUAL_TIMEOUT_S = 5.0


class ProbeTransport(StrEnum):
    """The transport of a request."""

    REST = "rest"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True)
class RequestAddress:
    """The URL that clients post the requests of a pipeline to, and their protocol.

    `note` tells from where it is reachable, or why there is none; `url` is empty then.
    """

    url: str = ""
    protocol: str = V2
    note: str = ""


NO_ADDRESS = RequestAddress()


@dataclass(frozen=True, slots=True)
class PipelineProbe:
    """The smoke request of a pipeline."""

    request: Mapping[str, Any] = field(hash=False)
    """A request that the pipeline answers, as its clients send it."""
    timeout_s: ShortDuration = USUAL_TIMEOUT_S
    """Most time for the answer, at most a minute; 5s if absent."""


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """One smoke request to send; `address` is the base URL for it, empty for the target's own."""

    body: Mapping[str, Any]
    timeout_s: float = USUAL_TIMEOUT_S
    address: str = ""
    transport: ProbeTransport = ProbeTransport.REST


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of one smoke request.

    `detail` is empty if a valid answer of the protocol came in time, without an error; else it tells what
    came instead. `status` is that of HTTP, None without an answer. `timing` is the answer's `Server-Timing`,
    empty without one.
    """

    url: str
    latency_s: float
    detail: str = ""
    answer: Any = None
    status: int | None = None
    timing: str = ""
    protocol: str = V2
    transport: ProbeTransport = ProbeTransport.REST

    @property
    def answered(self) -> bool:
        """True if the request got a valid answer of its protocol."""
        return not self.detail

    @property
    def fault(self) -> str:
        """The reason why the request failed; empty if it did not."""
        return f"{self.url}: {self.detail}" if self.detail else ""
