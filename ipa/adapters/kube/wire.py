"""One request over a connection pool, and its whole answer in time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ipa.model.errors import UnavailableError

# A page of an answer to us is a few kilobytes, at most a few hundred pods.
LONGEST_BODY = 16 * 1024 * 1024
CHUNK = 64 * 1024
# urllib3 knows no time-out of nothing.
SHORTEST_S = 0.001


class Budget:
    """The time that is left of a call's `timeout_s`, by the machine's clock: sockets know no other."""

    def __init__(self, what: str, timeout_s: float, left_s: float) -> None:
        self.what, self.timeout_s = what, timeout_s
        self._until_s = time.monotonic() + left_s

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, never quite none."""
        return max(self._until_s - time.monotonic(), SHORTEST_S)

    def late(self, words: str) -> UnavailableError:
        """The error of a deadline that has passed."""
        return UnavailableError(f"{self.what}: {words} within {self.timeout_s:g} s")

    def check(self) -> None:
        """UnavailableError after the deadline."""
        if time.monotonic() > self._until_s:
            raise self.late("no whole answer")


def send(
    pool: Any,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None,
    budget: Budget,
    idle_s: float | None = None,
) -> Any:
    """The urllib3 response with its body unread. `idle_s` bounds the pauses of the body instead of its time.

    UnavailableError where there is none.
    """
    from urllib3 import Timeout
    from urllib3.exceptions import HTTPError
    from urllib3.exceptions import TimeoutError as NoAnswerError

    left_s = budget.left_s
    timeout = Timeout(total=left_s) if idle_s is None else Timeout(connect=left_s, read=idle_s)
    try:
        return pool.request(
            method,
            url,
            headers=headers,
            body=body,
            timeout=timeout,
            preload_content=False,
            # A repeated request is a decision of ours, and a redirect would take our token elsewhere.
            retries=False,
            redirect=False,
        )
    except NoAnswerError:
        raise budget.late("no answer") from None
    except (HTTPError, OSError) as error:
        raise UnavailableError(f"{budget.what}: no answer ({type(error).__name__})") from None


def read_part(response: Any, budget: Budget) -> bytes:
    """The next part of the body, empty at its end. UnavailableError where the connection broke."""
    from urllib3.exceptions import HTTPError
    from urllib3.exceptions import TimeoutError as NoAnswerError

    try:
        part: bytes = response.read1(CHUNK)
    except NoAnswerError:
        raise budget.late("no answer") from None
    except (HTTPError, OSError) as error:
        raise UnavailableError(f"{budget.what}: no answer ({type(error).__name__})") from None
    return part


def whole_body(response: Any, budget: Budget) -> bytes:
    """The whole body; a socket's time-out alone would let a server send a byte a second for ever."""
    parts, length = [], 0
    while part := read_part(response, budget):
        parts.append(part)
        length += len(part)
        if length > LONGEST_BODY:
            raise UnavailableError(f"{budget.what}: the answer is longer than {LONGEST_BODY} bytes")
        budget.check()
    return b"".join(parts)
