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
    """Use this token from now on; None restores the one in the environment."""
    _given[:] = [token] if token else []


def auth() -> Callable[[httpx.Request], httpx.Request] | None:
    """The function that adds the token to a request; None without a token.

    UsageError, which does not quote the token, if it cannot be sent.
    """
    token = (_given[0] if _given else os.environ.get(VARIABLE, "")).strip()
    # httpx would quote the header in its error.
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UsageError(f"the token has characters that are not allowed; see --token and {VARIABLE}")

    def sign(request: httpx.Request) -> httpx.Request:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    return sign if token else None
