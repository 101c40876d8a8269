"""The streams of events that are open, and how they are bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ipa.adapters.store.feed import Feed


@dataclass
class Streams:
    """Those who follow the feed. For the server's event loop alone."""

    feed: Feed
    # Each takes a connection and a look at the feed every poll.
    most: int = 100
    # Proxies close what is silent for a minute.
    heartbeat_s: float = 15.0
    # A client that takes nothing for so long is dropped.
    send_s: float = 10.0
    # Then the client has to come back, and who it is is looked at again.
    longest_s: float = 3600.0
    stopping: Callable[[], bool] = lambda: False
    open: int = 0
    dropped: int = 0
