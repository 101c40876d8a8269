"""The batches that a stage served, by their end: the batch metrics of its queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from ipa.model.observation import Batches
from ipa.simulate.columns import FormedBatches

# The longest past that is read: a window of metrics, their delay, and a long batch.
KEPT_S = 600.0


class BatchLog:
    """Formed batches, in the order of their start; pieces older than `KEPT_S` are dropped."""

    def __init__(self) -> None:
        self._pieces: deque[FormedBatches] = deque()
        self._longest_s = 0.0

    def add(self, formed: FormedBatches) -> None:
        """Add batches with their start and end."""
        self._pieces.append(formed)
        self._longest_s = max(self._longest_s, float(np.max(formed.ends_s - formed.starts_s)))
        oldest_s = formed.starts_s[-1] - KEPT_S
        while self._pieces[0].starts_s[-1] < oldest_s:
            self._pieces.popleft()

    def sums(self, since_s: float, until_s: float) -> tuple[int, float, int]:
        """The number of batches that ended after `since_s` and until `until_s`, their seconds and items.

        Those whose items were all lost are none.
        """
        count, seconds, total = 0, 0.0, 0
        for formed in reversed(self._pieces):
            if formed.starts_s[-1] + self._longest_s <= since_s:
                break
            ended = (formed.ends_s > since_s) & (formed.ends_s <= until_s) & (formed.server >= 0)
            if not ended.any():
                continue
            lost = np.concatenate([[0], np.cumsum(formed.lost)])[formed.stops]
            items = np.diff(formed.stops - lost, prepend=0)
            count += int(np.count_nonzero(ended))
            seconds += float(np.sum((formed.ends_s - formed.starts_s)[ended]))
            total += int(np.sum(items[ended]))
        return count, seconds, total


def served(logs: Sequence[BatchLog], since_s: float, until_s: float) -> Batches | None:
    """The batches of all logs together that ended in that time; None if there are none."""
    sums = [log.sums(since_s, until_s) for log in logs]
    count, seconds, items = (sum(column) for column in zip(*sums, strict=True)) if sums else (0, 0.0, 0)
    if not count:
        return None
    return Batches(float(count), seconds / count, items / count, until_s - since_s)
