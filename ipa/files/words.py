"""Suggestions that messages make for an unknown name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Names that are compared and listed, and letters of one: a message is read by people.
MAX_NAMES = 100
MAX_LETTERS = 200


def unknown(name: str, known: Iterable[str]) -> str:
    """The nearest known name, or some of them."""
    names = list(known)
    near = difflib.get_close_matches(name[:MAX_LETTERS], names[:MAX_NAMES], n=1)
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names[:MAX_NAMES]) or 'none'}{more}"
