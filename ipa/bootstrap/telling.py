"""The webhook of the settings."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from prometheus_client import CollectorRegistry

from ipa.adapters.metrics.figures import record_figures, webhook_figures
from ipa.adapters.store.feed import Feed
from ipa.adapters.store.store import Store
from ipa.adapters.webhook.guarded import Sender
from ipa.adapters.webhook.message import secret_of
from ipa.adapters.webhook.webhook import Receiver, Webhook
from ipa.control.ports import Leadership
from ipa.model.errors import ConfigurationError, Problem
from ipa.settings import Settings

HOW_TO_SIGN = 'echo "whsec_$(openssl rand -base64 32)" makes a secret.'


def webhook_of(settings: Settings, store: Store, feed: Feed, leadership: Leadership) -> Webhook | None:
    """The webhook, not yet started; None without a URL. ConfigurationError lists all that is wrong."""
    if not settings.webhook_url:
        return None
    problems = _url_problems(settings.webhook_url)
    key = b""
    try:
        key = secret_of(_secret(settings))
    except (ValueError, OSError) as error:
        problems.append(Problem(f"the secret {error}"))
    if problems:
        raise ConfigurationError("the webhook cannot be used", hint=HOW_TO_SIGN, problems=problems)
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


def telling(
    webhook: Webhook | None, store: Store, registry: CollectorRegistry, resources: ExitStack
) -> Webhook | None:
    """The webhook, closed with the resources; how it and the record fare is on the registry."""
    registry.register(record_figures(store))
    if webhook is not None:
        resources.callback(webhook.close)
        registry.register(webhook_figures(webhook))
    return webhook


def _url_problems(url: str) -> list[Problem]:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  raises where it is none
    except ValueError as error:
        return [Problem(f"IPA_WEBHOOK_URL cannot be read: {error}")]
    problems = []
    if parts.scheme not in ("http", "https"):
        problems.append(Problem(f"IPA_WEBHOOK_URL: the scheme {parts.scheme!r} is neither http nor https"))
    if not parts.hostname:
        problems.append(Problem("IPA_WEBHOOK_URL names no host"))
    if parts.username is not None or parts.password is not None:
        problems.append(Problem("IPA_WEBHOOK_URL holds a password, which it would show; events are signed"))
    return problems


def _secret(settings: Settings) -> str:
    """The secret of the environment or the file; ValueError where there is none, or both."""
    if bool(settings.webhook_secret) == bool(settings.webhook_secret_file):
        raise ValueError("is in neither or both of IPA_WEBHOOK_SECRET and IPA_WEBHOOK_SECRET_FILE")
    if settings.webhook_secret:
        return settings.webhook_secret
    return Path(settings.webhook_secret_file).read_text(encoding="utf-8").strip()
