"""Authenticators of the settings, and the addresses on which the service may listen with them."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from ipa.adapters.identity.reviews import KubeIdentities
from ipa.adapters.store.state import KeyIdentities
from ipa.adapters.store.store import Store
from ipa.bootstrap.targets import cluster_target, kube_client
from ipa.control.ports import Clock
from ipa.model.errors import UsageError
from ipa.settings import Settings, words

LOG = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Identities = KeyIdentities | KubeIdentities


def make_authenticators(
    settings: Settings, store: Store, clock: Clock, resources: ExitStack
) -> tuple[Identities, ...]:
    """Authenticators in the order in which they check a request; none without authentication.

    ConfigurationError: settings that are missing or wrong.
    """
    wanted, authenticators = words(settings.auth), list[Identities]()
    if "keys" in wanted:
        if not any(key.state(clock.now()) == "valid" for key in store.keys.all()):
            LOG.warning("there is no valid API key yet: `ipa key create --role owner` makes one")
        authenticators.append(KeyIdentities(store.keys, clock))
    if "kubernetes" in wanted:
        # A separate client, so that reviews and the loops' calls do not wait for each other.
        client = kube_client(settings)
        resources.callback(client.close)
        kind, places = cluster_target(settings).access()
        authenticators.append(KubeIdentities(client, clock, kind, places, settings.kube_audience))
    return tuple(authenticators)


def check_listening(settings: Settings) -> None:
    """UsageError if the service would listen beyond loopback without authentication."""
    if settings.host not in LOOPBACK and not words(settings.auth):
        raise UsageError(
            f"without authentication the service does not listen on {settings.host}",
            hint="Set IPA_AUTH=keys and make a key with `ipa key create` (docs/how-to/secure.md has "
            "kubernetes), or use 127.0.0.1.",
        )


def allowed_hosts(settings: Settings) -> tuple[str, ...]:
    """The host names that the service answers to; empty for any."""
    named = words(settings.hosts)
    listens_to_others = settings.host not in LOOPBACK
    return () if listens_to_others and not named else (*LOOPBACK, *named)
