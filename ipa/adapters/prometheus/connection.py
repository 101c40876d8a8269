"""The connection to a Prometheus: its address, and the service's credentials for it."""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ipa.files.reading import read_utf8
from ipa.model.errors import ConfigurationError, IpaError, Problem, UnavailableError
from ipa.settings import Settings, setting_fault

# The header by which Mimir and Cortex tell tenants apart.
TENANT = "X-Scope-OrgID"
# A service account's token has about 1 kB, one with many claims some more.
MOST_TOKEN_BYTES = 65_536
# Printable, and no space: a header takes it as it is.
TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class PrometheusConnection:
    """A Prometheus' base URL, and what it asks of its clients; an empty value is not sent.

    `token` is a bearer token, or with a `user` the password of basic authentication. `token_file` holds it
    instead and is read for each query, so a renewed token counts at once; files of TLS are read for each new
    connection.
    """

    url: str
    timeout_s: float = 2.0
    user: str = ""
    token: str = field(default="", repr=False)
    token_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    tenant: str = ""

    def headers(self) -> dict[str, str]:
        """The headers of a request. UnavailableError if the token cannot be read at the moment."""
        found = {TENANT: self.tenant} if self.tenant else {}
        if token := self._token():
            pair = b64encode(f"{self.user}:{token}".encode()).decode("ascii")
            found["Authorization"] = f"Basic {pair}" if self.user else f"Bearer {token}"
        return found

    def _token(self) -> str:
        if not self.token_file:
            return self.token
        try:
            token = read_utf8(Path(self.token_file), MOST_TOKEN_BYTES).strip()
        except IpaError as error:
            raise UnavailableError(f"IPA_PROMETHEUS_TOKEN_FILE: {error.message}") from None
        if not TOKEN.fullmatch(token):
            raise UnavailableError(f"IPA_PROMETHEUS_TOKEN_FILE: {self.token_file} {NO_TOKEN}")
        return token


NO_TOKEN = "holds no token: one word of printable ASCII characters"  # noqa: S105  (no token either)


def connection_of(settings: Settings) -> PrometheusConnection:
    """The connection of the settings. ConfigurationError lists all that is wrong with them."""
    problems = [Problem(fault) for fault in connection_faults(settings)]
    if problems:
        raise ConfigurationError(
            "Prometheus cannot be asked with these settings",
            problems=problems,
            hint="docs/how-to/connect-prometheus.md has an example for each.",
        )
    return _connection(settings)


def _connection(settings: Settings) -> PrometheusConnection:
    return PrometheusConnection(
        settings.prometheus_url.rstrip("/"),
        settings.prometheus_timeout_s,
        settings.prometheus_user,
        settings.prometheus_token,
        settings.prometheus_token_file,
        settings.prometheus_ca_file,
        settings.prometheus_cert_file,
        settings.prometheus_key_file,
        settings.prometheus_tenant,
    )


def connection_faults(settings: Settings) -> Iterator[str]:
    """Problems of the settings for the connection; none shows a token or a password."""
    asked = _connection(settings)
    if fault := setting_fault("prometheus_url", asked.url):
        yield f"IPA_PROMETHEUS_URL {fault}"
    if asked.token and asked.token_file:
        yield "IPA_PROMETHEUS_TOKEN and IPA_PROMETHEUS_TOKEN_FILE are both set; leave one out"
    elif asked.user and not asked.token and not asked.token_file:
        yield f"IPA_PROMETHEUS_USER is {asked.user!r}, without a password; set IPA_PROMETHEUS_TOKEN_FILE"
    if asked.token and not TOKEN.fullmatch(asked.token):
        yield f"IPA_PROMETHEUS_TOKEN {NO_TOKEN}"
    elif asked.token_file:
        try:
            asked.headers()
        except UnavailableError as error:
            yield error.message
    if asked.tenant and not re.fullmatch(r"[\x20-\x7e]+", asked.tenant):
        yield f"IPA_PROMETHEUS_TENANT={asked.tenant!r} is not of printable ASCII characters"
    yield from _tls_faults(asked)


def _tls_faults(asked: PrometheusConnection) -> Iterator[str]:
    """Problems of the files of TLS."""
    files = {
        "IPA_PROMETHEUS_CA_FILE": asked.ca_file,
        "IPA_PROMETHEUS_CERT_FILE": asked.cert_file,
        "IPA_PROMETHEUS_KEY_FILE": asked.key_file,
    }
    given = {name: file for name, file in files.items() if file}
    if given and urlsplit(asked.url).scheme != "https":
        yield f"{', '.join(given)}: no effect on an http URL; set IPA_PROMETHEUS_URL=https://..."
        return
    if asked.key_file and not asked.cert_file:
        yield "IPA_PROMETHEUS_KEY_FILE has no effect without IPA_PROMETHEUS_CERT_FILE"
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if asked.ca_file:
            context.load_verify_locations(cafile=asked.ca_file)
    except (OSError, ValueError) as error:
        yield f"IPA_PROMETHEUS_CA_FILE: {_unusable(asked.ca_file, error)}"
    try:
        if asked.cert_file:
            # A key with a passphrase would ask the terminal for it.
            context.load_cert_chain(asked.cert_file, asked.key_file or None, password="")
    except (OSError, ValueError) as error:
        yield f"IPA_PROMETHEUS_CERT_FILE, IPA_PROMETHEUS_KEY_FILE: {_unusable(asked.cert_file, error)}"


def _unusable(file: str, error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{file} is not in PEM format, or its key does not fit ({error.reason or 'no PEM block'})"
    return f"{file} cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"


def tls_reason(error: BaseException | None) -> str:
    """The objection of TLS, from the causes of an error; empty if it has no cause in TLS."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"TLS: its certificate is not accepted: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return f"TLS: {error.reason or 'the connection was closed'}"
        error, seen = error.__cause__ or error.__context__, seen + 1
    return ""
