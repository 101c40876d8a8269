"""The webhook of the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prometheus_client import CollectorRegistry

from ipa.adapters.store.store import Store
from ipa.adapters.webhook.guarded import Sender
from ipa.adapters.webhook.message import secret_of
from ipa.adapters.webhook.webhook import Receiver, Webhook
from ipa.control.audit.feed import RecordFeed
from ipa.control.ports import Leadership
from ipa.files.reading import read_utf8
from ipa.metering import table
from ipa.metering.make import Figures
from ipa.model.errors import ConfigurationError, IpaError, Problem
from ipa.settings import Settings

MOST_SECRET_BYTES = 4096
HOW_TO_SIGN = 'echo "whsec_$(openssl rand -base64 32)" makes a secret.'


def webhook_of(settings: Settings, store: Store, feed: RecordFeed, leadership: Leadership) -> Webhook | None:
    """The webhook, not yet started; None without a URL. ConfigurationError lists all that is wrong."""
    if not settings.webhook_url:
        return None
    problems = [Problem(fault) for fault in webhook_faults(settings)]
    if problems:
        raise ConfigurationError("the webhook cannot be used", problems=problems)
    key = secret_of(_secret(settings))
    sender = Sender(
        settings.webhook_url,
        timeout_s=settings.webhook_timeout_s,
        private=settings.webhook_networks == "private",
        # With the authorities of SSL_CERT_FILE, where that is set.
        ssl_context=httpx.create_ssl_context(),
    )
    receiver = Receiver(
        source=f"/ipa/{settings.install}",
        key=key,
        only_changes=settings.webhook_events == "changes",
        most_waiting=settings.webhook_queue,
    )
    return Webhook(feed, store, sender, receiver, leading=leadership.leading)


def webhook_faults(settings: Settings) -> Iterator[str]:
    """Problems of the webhook's settings."""
    if not settings.webhook_url:
        return
    yield from _url_faults(settings.webhook_url)
    try:
        secret_of(_secret(settings))
    except (ValueError, IpaError) as error:
        yield f"the secret of the webhook {error}; {HOW_TO_SIGN}"


def monitored_webhook(
    webhook: Webhook | None, store: Store, registry: CollectorRegistry, resources: ExitStack
) -> Webhook | None:
    """Register the metrics of the record and the webhook, and close the webhook with the resources."""
    registry.register(record_figures(store))
    if webhook is not None:
        resources.callback(webhook.close)
        registry.register(webhook_figures(webhook))
    return webhook


def record_figures(store: Store) -> Figures:
    """Return the metrics of the record."""
    return Figures(
        (table.RECORD_FAILURES, lambda: store.failures),
        (table.STORE_DEGRADED, lambda: bool(store.degraded())),
        (table.RECORD_BYTES, lambda: store.keeper.record_bytes),
        (table.RECORD_BOUNDED, lambda: store.keeper.is_bounded),
    )


def webhook_figures(webhook: Webhook) -> Figures:
    """Return the metrics of the webhook."""
    return Figures(
        (table.WEBHOOK_DELIVERED, lambda: webhook.delivered),
        (table.WEBHOOK_FAILURES, lambda: webhook.failed),
        (table.WEBHOOK_DROPPED, lambda: webhook.dropped),
        (table.WEBHOOK_QUEUE, lambda: webhook.waiting),
    )


def _url_faults(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises where it is none
    except ValueError:
        # The error quotes what may be part of a password.
        yield "IPA_WEBHOOK_URL cannot be read: its host or port is invalid"
        return
    if parts.scheme not in ("http", "https"):
        yield f"IPA_WEBHOOK_URL: the scheme {parts.scheme!r} is neither http nor https"
    if not parts.hostname:
        yield "IPA_WEBHOOK_URL names no host"
    if parts.username is not None or parts.password is not None:
        yield "IPA_WEBHOOK_URL must not contain a password; events are signed instead"


def _secret(settings: Settings) -> str:
    """The secret of the environment or the file; ValueError where there is none, or both."""
    if bool(settings.webhook_secret) == bool(settings.webhook_secret_file):
        raise ValueError("is missing, or is in both IPA_WEBHOOK_SECRET and IPA_WEBHOOK_SECRET_FILE")
    if settings.webhook_secret:
        return settings.webhook_secret
    return read_utf8(Path(settings.webhook_secret_file), MOST_SECRET_BYTES).strip()
