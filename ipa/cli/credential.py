"""What the command line says to a service of who types. It is never printed."""

from __future__ import annotations

import os

from ipa.model.errors import UsageError

VARIABLE = "IPA_TOKEN"
_given: list[str] = []


def give(token: str | None) -> None:
    """Use this token in what follows; without one that of the environment."""
    _given[:] = [token] if token else []


def token() -> str:
    """The token to send, empty for none. UsageError, which does not quote it, where it cannot be sent."""
    found = (_given[0] if _given else os.environ.get(VARIABLE, "")).strip()
    # httpx would quote the header in its error.
    if not (found.isascii() and found.isprintable()) or " " in found:
        raise UsageError(f"the token has characters that no token has; see --token and {VARIABLE}")
    return found
