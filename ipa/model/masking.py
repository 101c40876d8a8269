"""Masking of secrets in URLs, for answers, logs and errors."""

from __future__ import annotations

import re

HIDDEN = "***"
# Options of SQLite, libpq and SQLAlchemy whose values are no secrets; the values of all others are hidden.
HARMLESS = frozenset(
    {
        *("cache", "immutable", "mode", "nolock", "timeout", "uri", "vfs"),
        *("application_name", "connect_timeout", "host", "hostaddr", "port", "sslmode"),
    }
)
# In a text, which may quote it: a password may hold spaces.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^\n'\"]*@)?[^\s'\"]+")
# A password may hold any character, also those that end a host; a URL without a host has no user.
_USER = re.compile(r"(?<=://)(?!/).*@", re.DOTALL)
_PATH = re.compile(r"(?<=://)([^/?#]*)/[^?#]+")


def mask_url(url: str, *, path: bool = False) -> str:
    """The URL with *** for its user, its password, its fragment and the values of its query.

    `path` hides the path too, which may hold the secret of a receiver. A text that is no URL is unchanged.
    """
    if "://" not in url:
        return url
    whole, _, fragment = _USER.sub(f"{HIDDEN}@", url).partition("#")
    place, _, query = whole.partition("?")
    if path:
        place = _PATH.sub(rf"\1/{HIDDEN}", place)
    options = "&".join(map(_mask_option, query.split("&"))) if query else ""
    return f"{place}{'?' if options else ''}{options}{f'#{HIDDEN}' if fragment else ''}"


def without_user(url: str) -> str:
    """The URL without its user and password, for storing."""
    return _USER.sub("", url)


def mask_urls(text: str) -> str:
    """The text, from another program, with its URLs masked."""
    return _URL.sub(lambda match: mask_url(match[0]), text)


def _mask_option(option: str) -> str:
    key, is_pair, _ = option.partition("=")
    if not is_pair:
        return HIDDEN
    return option if key in HARMLESS else f"{key}={HIDDEN}"
