"""Access to a Prometheus server: credentials, one checked request, and queries shared by pipelines.

The settings IPA_PROMETHEUS_* are its URL and credentials; an empty one is not sent. A token in
IPA_PROMETHEUS_TOKEN_FILE is read for each query, so a renewed one counts at once; TLS files are read for
each new connection. prometheus-api-client returns `data.result` alone, so its session checks status, warnings
and sizes.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from prometheus_api_client import PrometheusConnect
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from ipa.adapters.prometheus.queries import (
    NUMBER,
    OPTIONAL,
    Dialect,
    Matcher,
    Query,
    Rows,
    Samples,
    Selector,
)
from ipa.adapters.ttl_cache import TtlCache
from ipa.control.loop.scheduler import WORKERS
from ipa.files.reading import read_utf8
from ipa.model.errors import ConfigurationError, InputError, IpaError, Problem, UnavailableError
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings, setting_fault

# The header by which Mimir and Cortex tell tenants apart.
TENANT = "X-Scope-OrgID"
# A service account's token has about 1 kB, one with many claims some more.
MOST_TOKEN_BYTES = 65_536
# Printable, and no space: a header takes it as it is.
TOKEN = re.compile(r"[\x21-\x7e]+")
NO_TOKEN = "holds no token: one word of printable ASCII characters"  # noqa: S105  (no token either)
# The largest answers to our queries, samples of a quarter of an hour, have 30 kB a series.
MAX_BYTES = 4_000_000
CHUNK_BYTES = 65_536
# A server error means that it cannot answer now, any other error that the query or the answer is wrong.
SERVER_ERROR = 500
OK = 200
REFUSALS = (401, 403)
# Keeps an answer well below MAX_BYTES, and a query below the limit of proxies.
GROUP = 50


def credentials(settings: Settings) -> dict[str, str]:
    """The headers of a request. UnavailableError if the token cannot be read at the moment."""
    headers = {TENANT: settings.prometheus_tenant} if settings.prometheus_tenant else {}
    token, user = settings.prometheus_token, settings.prometheus_user
    if file := settings.prometheus_token_file:
        try:
            token = read_utf8(Path(file), MOST_TOKEN_BYTES).strip()
        except IpaError as error:
            raise UnavailableError(f"IPA_PROMETHEUS_TOKEN_FILE: {error.message}") from None
        if not TOKEN.fullmatch(token):
            raise UnavailableError(f"IPA_PROMETHEUS_TOKEN_FILE: {file} {NO_TOKEN}")
    if token:
        pair = b64encode(f"{user}:{token}".encode()).decode("ascii")
        headers["Authorization"] = f"Basic {pair}" if user else f"Bearer {token}"
    return headers


def check_connection(settings: Settings) -> Settings:
    """Return the settings if Prometheus can be reached with them. ConfigurationError lists every fault."""
    if problems := [Problem(fault) for fault in _faults(settings)]:
        raise ConfigurationError(
            "Prometheus cannot be queried with these settings",
            problems=problems,
            hint="docs/how-to/connect-prometheus.md has an example for each.",
        )
    return settings


def _faults(settings: Settings) -> Iterator[str]:
    """The problems of the settings for a connection, without any token or password."""
    token, user, tenant = settings.prometheus_token, settings.prometheus_user, settings.prometheus_tenant
    if fault := setting_fault("prometheus_url", settings.prometheus_url):
        yield f"IPA_PROMETHEUS_URL {fault}"
    if token and settings.prometheus_token_file:
        yield "IPA_PROMETHEUS_TOKEN and IPA_PROMETHEUS_TOKEN_FILE are both set; leave one out"
    elif user and not token and not settings.prometheus_token_file:
        yield f"IPA_PROMETHEUS_USER is {user!r}, without a password; set IPA_PROMETHEUS_TOKEN_FILE"
    if token and not TOKEN.fullmatch(token):
        yield f"IPA_PROMETHEUS_TOKEN {NO_TOKEN}"
    try:
        credentials(settings)
    except UnavailableError as error:
        yield error.message
    if tenant and not re.fullmatch(r"[\x20-\x7e]+", tenant):
        yield f"IPA_PROMETHEUS_TENANT={tenant!r} has characters that are not printable ASCII"
    ca_file, cert_file = settings.prometheus_ca_file, settings.prometheus_cert_file
    key_file = settings.prometheus_key_file
    if (ca_file or cert_file or key_file) and urlsplit(settings.prometheus_url).scheme != "https":
        yield "files of TLS have no effect on an http URL; set IPA_PROMETHEUS_URL=https://..."
    elif key_file and not cert_file:
        yield "IPA_PROMETHEUS_KEY_FILE has no effect without IPA_PROMETHEUS_CERT_FILE"
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ca_file and (fault := _tls_fault(partial(context.load_verify_locations, ca_file))):
            yield f"IPA_PROMETHEUS_CA_FILE: {ca_file} {fault}"
        # A key with a passphrase would ask the terminal for it.
        chain = partial(context.load_cert_chain, cert_file, key_file or None, password="")
        if cert_file and (fault := _tls_fault(chain)):
            yield f"IPA_PROMETHEUS_CERT_FILE, IPA_PROMETHEUS_KEY_FILE: {cert_file} {fault}"


def _tls_fault(load: Callable[[], None]) -> str:
    """The reason why a TLS file cannot be loaded; empty if it can."""
    try:
        load()
    except ssl.SSLError as error:
        return f"is not in PEM format, or its key does not fit ({error.reason or 'no PEM block'})"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
    return ""


class PrometheusHttp:
    """A Prometheus server's HTTP API. Errors: UnavailableError (no answer), InputError (invalid answer)."""

    def __init__(self, settings: Settings) -> None:
        place, self.session = settings.prometheus_url.rstrip("/"), CheckedSession(settings)
        self._prometheus = PrometheusConnect(
            url=place, session=self.session, retry=Retry(0), timeout=settings.prometheus_timeout_s
        )
        # Replaces the client's own, which keeps ten connections and opens all others anew each time.
        self.session.mount(place, HTTPAdapter(max_retries=Retry(0), pool_maxsize=WORKERS))

    def fetch(self, query: Query | str) -> list[tuple[dict[str, str], Samples]]:
        """Return the labels and samples of each series of the result, now."""
        result = self._prometheus.custom_query(str(query))
        try:
            return [
                (
                    dict(each["metric"]),
                    [(float(at_s), float(text)) for at_s, text in each.get("values") or [each["value"]]],
                )
                for each in result
            ]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError("a series that is not labels, times and numbers") from None


class CheckedSession(requests.Session):
    """A session in which every request returns a complete, successful answer within the time limit.

    Errors: UnavailableError (no answer), InputError (invalid answer). It follows no redirect, and uses no
    proxy or .netrc of the environment: only the configured metrics server gets requests and credentials.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.trust_env = False
        self.headers["Accept-Encoding"] = "identity"
        self.verify = settings.prometheus_ca_file or True
        pair = settings.prometheus_cert_file, settings.prometheus_key_file
        self.cert = pair if all(pair) else settings.prometheus_cert_file or None
        self.auth = self._identified
        self._settings, self._timeout_s = settings, settings.prometheus_timeout_s

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """Send the request, and return the checked answer."""
        deadline_s, body = time.monotonic() + self._timeout_s, bytearray()
        kwargs |= {"stream": True, "allow_redirects": False, "timeout": self._timeout_s}
        try:
            with super().request(method, url, **kwargs) as response:
                # `read1` returns available bytes at once, so a slow server cannot exceed the deadline.
                while chunk := response.raw.read1(CHUNK_BYTES):
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise InputError(f"more than {MAX_BYTES} bytes")
                    if time.monotonic() > deadline_s:
                        raise UnavailableError(f"not finished after {self._timeout_s:g} s")
        except (requests.RequestException, HTTPError, OSError) as error:
            raise UnavailableError(tls_reason(error) or type(error).__name__) from error
        response._content = bytes(body)
        _check(response.status_code, response._content)
        return response

    def _identified(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """The request with the present credentials."""
        request.headers.update(credentials(self._settings))
        return request


def tls_reason(error: BaseException | None) -> str:
    """The TLS failure among the causes of an error; empty if there is none."""
    for _ in range(10):
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"TLS: its certificate is not accepted: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return f"TLS: {error.reason or 'the connection was closed'}"
        error = error and (error.__cause__ or error.__context__)
    return ""


def _check(status: int, body: bytes) -> None:
    """Raise an error unless the answer is Prometheus' JSON, successful and without warnings.

    "PromQL info" annotations are remarks about a query, not about missing data.
    """
    if status >= SERVER_ERROR:
        raise UnavailableError(f"HTTP {status}")
    if status in REFUSALS:
        raise InputError(
            f"HTTP {status}: it refuses the service's credentials (IPA_PROMETHEUS_TOKEN_FILE, _USER, _TENANT)"
        )
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise InputError(f"HTTP {status} with a body that is not a JSON object")
    if status != OK or answer.get("status") != "success":
        raise InputError(f"HTTP {status}: {_short(answer.get('error', 'no success'))}")
    warnings = [text for text in answer.get("warnings") or [] if not str(text).startswith("PromQL info")]
    if warnings:
        raise InputError(f"warning: {_short(warnings[0])}")
    data = answer.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("result"), list):
        raise InputError("no result in the answer")


def _short(text: Any) -> str:
    """The first 200 characters of the server's message, on one line."""
    return " ".join(str(text).split())[:200]


# Answers one query of one pipeline: its rows, and the monotonic time of their fetch in s. Errors:
# UnavailableError (no answer), InputError (invalid answer).
Ask = Callable[[Query], tuple[Rows, float]]
Fetch = Callable[[Query], Sequence[tuple[Mapping[str, str], Samples]]]


class SharedQueries:
    """Queries for a group of pipelines at once; caches each answer for `life_s`.

    A tick sends ten queries and more. A thousand pipelines would send a thousand a second, and each query
    costs both sides more than its few numbers are worth. `pipelines` are all pipelines that are read; any
    other pipeline, and one without company, has queries of its own. Errors: those of `fetch`, and InputError
    for a duplicate series.
    """

    def __init__(
        self,
        dialect: Dialect,
        pipelines: Callable[[], Collection[Pipeline]],
        fetch: Fetch,
        life_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._dialect, self._pipelines = dialect, pipelines
        self._fetch, self._monotonic_s = fetch, monotonic_s
        self._shared: TtlCache[dict[str, list[tuple[Mapping[str, str], Samples]]]] = TtlCache(
            life_s, monotonic_s
        )
        # The pipelines, and the group of each by the value of its label.
        self._grouped: tuple[tuple[Pipeline, ...], dict[str, tuple[str, ...]]] = ((), {})

    def ask(self, query: Query) -> tuple[Rows, float]:
        """Return the rows of the query, which concerns one pipeline, and the time of their fetch."""
        label = self._dialect.identity_label
        identity = query.selector.matcher(label)
        group = self._group(identity.values[0]) if identity else ()
        if identity is None or len(group) < 2:
            return _combine(query, self._fetch(query)), self._monotonic_s()
        # Namespaces and predictor numbers differ within a group: its query tells them apart.
        own = [each for each in query.selector.matchers if each.ending in (OPTIONAL, NUMBER)]
        common = tuple(it for it in query.selector.matchers if it is not identity and it not in own)
        by = (label, *(each.label for each in own), *query.by)
        shared = replace(query, selector=replace(query.selector, matchers=common), by=by)

        def fetch() -> dict[str, list[tuple[Mapping[str, str], Samples]]]:
            selector = Selector(shared.selector.metric, (Matcher(label, group), *common))
            by_label = defaultdict(list)
            for labels, samples in self._fetch(replace(shared, selector=selector)):
                by_label[labels.get(label, "")].append((labels, samples))
            return by_label

        # The text of the query is long, and only made to be sent.
        rows, at_s = self._shared.get((group, shared), fetch)
        mine = Selector("", tuple(own))
        selected = [row for row in rows.get(identity.values[0], []) if mine.selects(row[0])]
        return _combine(query, selected), at_s

    def _group(self, value: str) -> tuple[str, ...]:
        """The label values of the group that this value belongs to; empty if it is in none."""
        # Identical objects compare equal without a look inside.
        pipelines = tuple(self._pipelines())
        if pipelines != self._grouped[0]:
            ordered = sorted({self._dialect.identity(pipeline) for pipeline in pipelines})
            groups = [tuple(ordered[at : at + GROUP]) for at in range(0, len(ordered), GROUP)]
            self._grouped = (pipelines, {each: group for group in groups for each in group})
        return self._grouped[1].get(value, ())


def _combine(query: Query, rows: Sequence[tuple[Mapping[str, str], Samples]]) -> Rows:
    """The answer to the query alone, from series that have more labels than the query groups by."""
    if len({tuple(sorted(labels.items())) for labels, _ in rows}) < len(rows):
        raise InputError("several series, but one was expected")
    several: dict[tuple[str, ...], list[Samples]] = defaultdict(list)
    for labels, samples in rows:
        several[query.key(labels)].append(samples)
    combined: dict[tuple[str, ...], Samples] = {}
    for key, each in several.items():
        if len(each) == 1:
            combined[key] = each[0]
            continue
        at: dict[float, list[float]] = defaultdict(list)
        for at_s, value in (sample for samples in each for sample in samples):
            at[at_s].append(value)
        combined[key] = [(at_s, query.aggregate(values)) for at_s, values in sorted(at.items())]
    return combined
