"""The token that the command line sends to a service. It is never printed."""

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
    """Use this token from now on; None for that of the environment."""
    _given[:] = [token] if token else []


def auth() -> Callable[[httpx.Request], httpx.Request] | None:
    """The function that adds the token to a request; None without a token."""
    found = _token()

    def signed(request: httpx.Request) -> httpx.Request:
        request.headers["Authorization"] = f"Bearer {found}"
        return request

    return signed if found else None


def _token() -> str:
    """The token to send, empty for none. UsageError, which does not quote it, if it cannot be sent."""
    found = (_given[0] if _given else os.environ.get(VARIABLE, "")).strip()
    # httpx would quote the header in its error.
    if not (found.isascii() and found.isprintable()) or " " in found:
        raise UsageError(f"the token has characters that are not allowed; see --token and {VARIABLE}")
    return found
