"""The interface to read and change pipelines: at a service, on a cluster or in a manifest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from ipa.model.errors import service_only
from ipa.model.plan import StageConfig
from ipa.service.preconditions import ChangeOrder

# JSON values as the REST API documents them.
JsonObject = dict[str, Any]


class PipelineClient(ABC):
    """Reads and changes pipelines; answers are JSON values as those of the REST API.

    Errors: those of IpaError. What only a running service does is a method of `HttpClient` alone.
    """

    @property
    @abstractmethod
    def interval_s(self) -> float | None:
        """Seconds between two reads of a watch; None if nothing changes by itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    @abstractmethod
    def names(self) -> list[str]:
        """The pipelines that may be found here."""

    @abstractmethod
    def definition(self, pipeline: str) -> JsonObject:
        """The pipeline as its owner wrote it, and where it takes requests."""

    @abstractmethod
    def status(self, pipeline: str) -> JsonObject:
        """The state of the pipeline."""

    @abstractmethod
    def decisions(
        self,
        pipeline: str,
        *,
        limit: int,
        before: str | None = None,
        applied_only: bool = False,
        inputs: bool = True,
    ) -> JsonObject:
        """The `limit` decisions before the decision `before`, newest first; `inputs`: with theirs."""

    @abstractmethod
    def decision(self, decision_id: str) -> JsonObject:
        """The decision of that id."""

    @abstractmethod
    def record(self, pipeline: str, anchor: str | None) -> JsonObject:
        """The verified record; `anchor` is a head that was kept elsewhere."""

    @abstractmethod
    def plan(self, pipeline: str, rate_rps: float | None, objective: str | None) -> JsonObject:
        """The best plan for the rate (None: for the forecast of a service)."""

    @abstractmethod
    def apply(self, pipeline: str, configs: Sequence[StageConfig], order: ChangeOrder) -> JsonObject:
        """The decision that applied `configs`.

        ConflictError: the expected revision does not run any more, or it takes capacity while requests are
        late and that is not `confirmed`.
        """

    @abstractmethod
    def preview_rollback(self, pipeline: str, to: str | None, *, by: str) -> JsonObject:
        """The changes that `rollback` would take back now, and the configuration that it would restore."""

    @abstractmethod
    def rollback(self, pipeline: str, to: str | None, order: ChangeOrder) -> JsonObject:
        """The decision that took back the last change by that person, or restored the revision `to`.

        Errors: those of `apply`; ConflictError: nothing is left to take back, or another change rolls out.
        """

    @abstractmethod
    def replay(self, decision_id: str, policy: str | None) -> JsonObject:
        """The outcome of deciding again from the recorded inputs."""

    @property
    @abstractmethod
    def at(self) -> str:
        """The address, without a password."""

    def events(self, pipeline: str | None, *, after: int | None, follow: bool) -> Iterator[str]:
        """The lines of the text/event-stream after the event `after`; UsageError where there is none."""
        raise service_only("events", self.at)
