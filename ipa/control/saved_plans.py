"""What is kept for people beside decisions: plans under ids, and answers under the keys of requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ipa.model.plan import Plan


@dataclass(frozen=True, slots=True)
class Basis:
    """What a plan was computed from. Where any of it is another now, the plan is stale.

    `revision` is that of what ran (empty: it was not seen), the digests are those of the pipeline as its
    owner wrote it and of all its profiles.
    """

    revision: str
    pipeline_digest: str
    profiles_digest: str


@dataclass(frozen=True, slots=True)
class KeptPlan:
    """A plan under its id. `asked` is the request as canonical JSON, `at` when it was made (RFC 3339).

    `record` is that of its pipeline; empty, as in older stores, for the one of the pipeline's name.
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


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """What a request was answered with: an HTTP status and a JSON text."""

    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A key as it stands. `mark` is the digest of the request that came with it first, at `at_s` (Unix time).

    `mine`: it is ours to carry out; `is_resumed`: it was begun before, by a process that is gone. Not ours
    and without an answer, it is being carried out now.
    """

    mark: str
    at_s: float
    mine: bool = False
    is_resumed: bool = False
    answer: KeptAnswer | None = None


class PlanStore(Protocol):
    """Plans that were made for people, the newest some thousands of them."""

    def keep(self, plan: KeptPlan) -> None:
        """Keep it; UnavailableError where that fails."""
        ...

    def plan(self, plan_id: str) -> KeptPlan:
        """That plan; NotFoundError where there is none (any more)."""
        ...


class AnswerStore(Protocol):
    """Answers by the keys of their requests, each kept for a day at least, over restarts."""

    def claim(self, key: str, mark: str, holder: str, now_s: float, record: str = "") -> Claim:
        """Take the key where nobody did; else how it stands. The answer is forgotten with the `record`.

        One whose `holder` is another, or is ours since longer than any request takes, was left unfinished.
        """
        ...

    def settle(self, key: str, answer: KeptAnswer) -> None:
        """Keep the answer; on disk when this returns."""
        ...

    def release(self, key: str) -> None:
        """Give up a key under which nothing happened."""
        ...
