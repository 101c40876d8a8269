"""Plans stored under ids, so that people can apply them later, and answers for retries of requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ipa.model.plan import Plan


@dataclass(frozen=True, slots=True)
class Basis:
    """The inputs of a plan. If any of them has changed, the plan is stale.

    `revision` is that of the running configuration (empty if unknown); the digests are those of the pipeline
    as its owner wrote it, and of all its profiles.
    """

    revision: str
    pipeline_digest: str
    profiles_digest: str


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A stored plan. `asked` is the request as canonical JSON, `at` the time it was made (RFC 3339).

    `record` is the record of its pipeline; empty, as in older stores, for the record of the pipeline's name.
    """

    plan_id: str
    pipeline: str
    at: str
    asked: str
    basis: Basis
    plan: Plan
    record: str = ""

    @property
    def key(self) -> str:
        """The record of the pipeline that it was made for."""
        return self.record or self.pipeline


class PlanStore(Protocol):
    """The stored plans: some thousands of the newest."""

    def keep(self, plan: StoredPlan) -> None:
        """Store the plan; UnavailableError if that fails."""

    def plan(self, plan_id: str) -> StoredPlan:
        """The plan of that id; NotFoundError if it was never stored or is already deleted."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer to a request: an HTTP status and a JSON text."""

    status: int
    body: str


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """The state of a key: the digest of its first request, at `at_s` (Unix time).

    `mine`: this caller must carry the request out. `is_resumed`: a process that is gone started it before. If
    it is not `mine` and has no answer, another caller is carrying it out.
    """

    request_digest: str
    at_s: float
    mine: bool = False
    is_resumed: bool = False
    answer: StoredAnswer | None = None


class AnswerStore(Protocol):
    """Answers by the keys of their requests, each kept for at least a day, across restarts."""

    def claim(
        self, key: str, request_digest: str, holder: str, now_s: float, record: str = ""
    ) -> IdempotencyClaim:
        """Claim the key if it is free, and return its state. The answer is deleted with the `record`.

        A claim of another `holder`, or one that is older than any request takes, counts as abandoned.
        """

    def settle(self, key: str, answer: StoredAnswer) -> None:
        """Store the answer durably."""

    def release(self, key: str) -> None:
        """Release a key whose request changed nothing."""
