"""Who may ask the service: do its settings let anybody in, and nobody in unasked."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.adapters.identity.jwks import Jwks
from ipa.adapters.store import open_store
from ipa.adapters.store.database import Access, schema_state
from ipa.bootstrap.identity import check_listening, oidc_issuer
from ipa.cli.doctor.base import Finding, failed, ok, warn
from ipa.control.loop.clock import SystemClock
from ipa.model.errors import IpaError
from ipa.settings import Settings, words

NAME = "authentication"
MAKE_KEY = "ipa key create --role owner"


def identity_findings(settings: Settings) -> Iterator[Finding]:
    """Where the service listens, and each way by which it would know who asks."""
    try:
        check_listening(settings)
    except IpaError as error:
        yield failed(NAME, error, f"export IPA_AUTH=keys && {MAKE_KEY}")
        return
    wanted = words(settings.auth)
    if not wanted:
        yield ok(NAME, f"nobody has to say who they are; only this machine is listened to ({settings.host})")
    if "keys" in wanted:
        yield _keys(settings)
    if "oidc" in wanted:
        yield _oidc(settings)


def _keys(settings: Settings) -> Finding:
    name = f"{NAME}: keys"
    state = schema_state(settings.store_url)
    valid = 0
    # A store that is not there, or older, is neither made nor changed to look into it.
    if state.current == state.newest:
        store = open_store(settings.store_url, Access.READ)
        try:
            now = SystemClock().now()
            valid = sum(key.state(now) == "valid" for key in store.keys.all())
        finally:
            store.close()
    return ok(name, f"{valid} valid API keys") if valid else warn(name, "there is no valid API key", MAKE_KEY)


def _oidc(settings: Settings) -> Finding:
    name = f"{NAME}: oidc"
    try:
        oidc_issuer(settings)
        Jwks(settings.oidc_jwks, SystemClock()).key(None)
    except IpaError as error:
        return failed(name, error, "export IPA_OIDC_JWKS=https://ISSUER/keys   (docs/how-to/secure.md)")
    return ok(name, f"the keys of {settings.oidc_issuer} can be read")
