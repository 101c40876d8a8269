"""Answers that are kept under the idempotency keys of requests, so that a retry gets the same answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer to a request: an HTTP status and a JSON text."""

    status: int
    body: str


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """The state of a key: the digest of the first request that came with it, at `at_s` (Unix time).

    `mine`: this caller is to carry the request out. `is_resumed`: a process that is gone began it before. A
    claim that is not `mine` and has no answer is being carried out by another caller now.
    """

    request_digest: str
    at_s: float
    mine: bool = False
    is_resumed: bool = False
    answer: StoredAnswer | None = None


class AnswerStore(Protocol):
    """Answers by the keys of their requests, each kept for a day at least, also over restarts."""

    def claim(
        self, key: str, request_digest: str, holder: str, now_s: float, record: str = ""
    ) -> IdempotencyClaim:
        """Claim the key if nobody holds it, and return its state. The answer is deleted with the `record`.

        A claim of another `holder`, or of ours for longer than any request takes, was left unfinished.
        """
        ...

    def settle(self, key: str, answer: StoredAnswer) -> None:
        """Keep the answer; on disk when this returns."""
        ...

    def release(self, key: str) -> None:
        """Release a key whose request changed nothing."""
        ...
