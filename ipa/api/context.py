"""The context of the HTTP application: the service, and the parts that belong to HTTP alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry

from ipa.api.limits import ApiLimits
from ipa.api.metered import HttpMetrics
from ipa.api.streams import Streams
from ipa.control.audit.feed import FollowedRecord
from ipa.service.service import Service

if TYPE_CHECKING:
    from ipa.bootstrap.identity import Identities


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The service, limits, metrics and authentication of one application."""

    service: Service
    limits: ApiLimits = field(default_factory=ApiLimits)
    registry: CollectorRegistry = field(default=REGISTRY)
    # None if requests are not counted.
    http: HttpMetrics | None = None
    # Empty if authentication is off.
    authenticators: tuple[Identities, ...] = ()
    # True if the metrics need no token.
    metrics_open: bool = True
    # The record and the clients that follow it; None without a record.
    record: FollowedRecord | None = None
    streams: Streams | None = None
