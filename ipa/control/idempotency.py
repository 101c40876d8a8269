"""Answers stored under the idempotency keys of requests, so that a retry gets the same answer."""

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
