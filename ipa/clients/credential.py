"""What the command line says to a service of who types. It is never printed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from ipa.model.errors import UsageError

if TYPE_CHECKING:
    import httpx

VARIABLE = "IPA_TOKEN"
_given: list[str] = []


def give(token: str | None) -> None:
    """Use this token in what follows; without one that of the environment."""
    _given[:] = [token] if token else []


def auth() -> Callable[[httpx.Request], httpx.Request] | None:
    """Puts the token into a request; None where there is none."""
    found = _token()

    def signed(request: httpx.Request) -> httpx.Request:
        request.headers["Authorization"] = f"Bearer {found}"
        return request

    return signed if found else None


def _token() -> str:
    """The token to send, empty for none. UsageError, which does not quote it, where it cannot be sent."""
    found = (_given[0] if _given else os.environ.get(VARIABLE, "")).strip()
    # httpx would quote the header in its error.
    if not (found.isascii() and found.isprintable()) or " " in found:
        raise UsageError(f"the token has characters that no token has; see --token and {VARIABLE}")
    return found
