"""A Prometheus behind TLS that asks its clients for a certificate, a token and a tenant."""

from __future__ import annotations

import base64
import json
import logging
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.doctor import metrics_checks
from ipa.adapters.prometheus.server import check_connection
from ipa.model.errors import ConfigurationError
from ipa.model.findings import Finding, Severity
from ipa.model.observation import Measured, Missing, MissingReason
from ipa.model.pipeline import Pipeline, Sla, Stage, Variant
from ipa.settings import Settings
from tests.fakes.answering import Listening, Quiet

PIPELINE = Pipeline("p", (Stage("s", (Variant("v"),)),), Sla(1.0, 99.0), {})
NOW_S = 1_000_000.0
TOKEN, RENEWED, TENANT = "glsa_0123456789abcdef", "glsa_fedcba9876543210", "team-a"


class Authority:
    """Signs certificates for one day, as files of PEM."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, None), True)
        self.file = self._pem(f"{name}.pem", builder.sign(self._key, hashes.SHA256()))

    def issue(self, name: str) -> tuple[str, str]:
        """The files of a certificate for 127.0.0.1 and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        here = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = self._builder(subject, key).add_extension(here, False).add_extension(issuer, False)
        file = self._pem(f"{name}.pem", builder.sign(self._key, hashes.SHA256()))
        key_file = self._folder / f"{name}.key"
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        key_file.write_bytes(key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
        return file, str(key_file)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )

    def _pem(self, name: str, certificate: x509.Certificate) -> str:
        path = self._folder / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)


class Guarded(Listening):
    """Answers queries with 7, and counts 7 a second, to those with the expected headers over mutual TLS."""

    def __init__(self, authority: Authority) -> None:
        self.expected = {"Authorization": f"Bearer {TOKEN}", "X-Scope-OrgID": TENANT}
        self.seen: list[dict[str, str]] = []
        guarded = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                guarded.seen.append(dict(self.headers))
                is_known = guarded.expected.items() <= dict(self.headers).items()
                point = [NOW_S, "7"]
                values = [[NOW_S - 1, "0"], point] if self.path.endswith("5D") else None
                series = {"metric": {"le": "+Inf"}, "value": point, "values": values}
                answer = {"status": "success", "data": {"resultType": "any", "result": [series]}}
                body = json.dumps(answer).encode() if is_known else b"no org id"
                self.send_response(200 if is_known else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("prometheus"))
        context.load_verify_locations(authority.file)
        context.verify_mode = ssl.CERT_REQUIRED
        # With 1.3 a client may send its request before it is refused, and sees a broken connection instead.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        # The handshake is the handler's, not the accepting thread's.
        self._http.socket = context.wrap_socket(
            self._http.socket, server_side=True, do_handshake_on_connect=False
        )

    @property
    def url(self) -> str:
        return f"https://{self.target}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder, "authority")


@pytest.fixture(scope="module")
def stranger(folder: Path) -> Authority:
    return Authority(folder, "stranger")


@pytest.fixture(scope="module")
def guarded(authority: Authority) -> Iterator[Guarded]:
    with Guarded(authority) as server:
        yield server


@pytest.fixture
def settings(guarded: Guarded, authority: Authority, folder: Path, tmp_path: Path) -> Settings:
    """The settings with which all is as it should be."""
    cert_file, key_file = authority.issue("ipa")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    return Settings.from_env(
        {
            "IPA_PROMETHEUS_URL": guarded.url,
            "IPA_PROMETHEUS_TOKEN_FILE": str(tmp_path / "token"),
            "IPA_PROMETHEUS_CA_FILE": authority.file,
            "IPA_PROMETHEUS_CERT_FILE": cert_file,
            "IPA_PROMETHEUS_KEY_FILE": key_file,
            "IPA_PROMETHEUS_TENANT": TENANT,
            "IPA_STALE_AFTER_S": "60",
        }
    )


def rate(source: Settings | PrometheusMetrics) -> Missing | float:
    """The arrival rate that is read there."""
    metrics = source if isinstance(source, PrometheusMetrics) else PrometheusMetrics(source)
    signal = metrics.read(PIPELINE, 10.0).arrival_rate_rps
    return signal.value if isinstance(signal, Measured) else signal


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prometheus_ca_file": ""}, "TLS: its certificate is not accepted: "),
        ({"prometheus_cert_file": "", "prometheus_key_file": ""}, "TLS: "),
        ({"prometheus_token_file": ""}, "HTTP 401: it refuses the service's credentials"),
        ({"prometheus_token_file": "", "prometheus_token": RENEWED}, "HTTP 401: "),
        ({"prometheus_tenant": ""}, "HTTP 401: "),
        ({"prometheus_tenant": "team-b"}, "HTTP 401: "),
    ],
    ids=str,
)
def test_without_one_of_them_nothing_is_read_and_it_says_why(
    settings: Settings, changes: dict[str, str], words: str
) -> None:
    missing = rate(replace(settings, **changes))  # type: ignore[arg-type]
    assert isinstance(missing, Missing) and missing.detail.startswith(words)
    unseen = MissingReason.INVALID if words.startswith("HTTP") else MissingReason.UNREACHABLE
    assert missing.reason is unseen


def test_a_certificate_of_another_authority_is_refused_by_either_side(
    settings: Settings, stranger: Authority
) -> None:
    theirs = replace(settings, prometheus_ca_file=stranger.file)
    missing = rate(theirs)
    assert isinstance(missing, Missing) and missing.detail.startswith("TLS: its certificate is not accepted")
    cert_file, key_file = stranger.issue("of-a-stranger")
    ours = replace(settings, prometheus_cert_file=cert_file, prometheus_key_file=key_file)
    missing = rate(ours)
    assert isinstance(missing, Missing) and missing.detail.startswith("TLS: ")


def test_a_renewed_token_counts_at_once(settings: Settings, guarded: Guarded) -> None:
    metrics = PrometheusMetrics(settings)
    assert rate(metrics) == 7.0
    guarded.expected["Authorization"] = f"Bearer {RENEWED}"
    try:
        assert isinstance(rate(metrics), Missing)
        Path(settings.prometheus_token_file).write_text(RENEWED)
        assert rate(metrics) == 7.0
        Path(settings.prometheus_token_file).unlink()
        missing = rate(metrics)
    finally:
        guarded.expected["Authorization"] = f"Bearer {TOKEN}"
    assert isinstance(missing, Missing) and missing.reason is MissingReason.UNREACHABLE
    assert "IPA_PROMETHEUS_TOKEN_FILE" in missing.detail and "does not exist" in missing.detail


def test_the_token_is_the_password_of_a_user(settings: Settings, guarded: Guarded) -> None:
    # The tenant goes along: without it the answer is 401.
    pair = base64.b64encode(f"reader:{TOKEN}".encode()).decode()
    guarded.expected["Authorization"] = f"Basic {pair}"
    try:
        assert rate(replace(settings, prometheus_user="reader")) == 7.0
    finally:
        guarded.expected["Authorization"] = f"Bearer {TOKEN}"


def test_no_secret_is_in_logs_or_representations(
    settings: Settings, guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    by_value = replace(settings, prometheus_token=TOKEN, prometheus_token_file="")
    with caplog.at_level(logging.DEBUG):
        assert rate(by_value) == 7.0
        assert isinstance(rate(replace(by_value, prometheus_tenant="")), Missing)
    assert any("127.0.0.1" in line for line in caplog.messages)
    shown = (caplog.text, repr(by_value), repr(settings))
    assert not any(TOKEN in text for text in shown)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prometheus_url": "https://ann:hunter2@127.0.0.1:1"}, "IPA_PROMETHEUS_URL must not contain a user"),
        ({"prometheus_token": TOKEN}, "IPA_PROMETHEUS_TOKEN and IPA_PROMETHEUS_TOKEN_FILE are both set"),
        (
            {"prometheus_token_file": "", "prometheus_token": "hunter2 x"},
            "IPA_PROMETHEUS_TOKEN holds no token",
        ),
        (
            {"prometheus_token_file": "/nothing/here"},
            "IPA_PROMETHEUS_TOKEN_FILE: /nothing/here cannot be read",
        ),
        (
            {"prometheus_token_file": "", "prometheus_user": "ann"},
            "IPA_PROMETHEUS_USER is 'ann', without a password",
        ),
        (
            {"prometheus_ca_file": "/nothing/here"},
            "IPA_PROMETHEUS_CA_FILE: /nothing/here cannot be read: No such",
        ),
        (
            {"prometheus_cert_file": ""},
            "IPA_PROMETHEUS_KEY_FILE has no effect without IPA_PROMETHEUS_CERT_FILE",
        ),
        ({"prometheus_url": "http://127.0.0.1:1"}, "no effect on an http URL"),
        ({"prometheus_tenant": "team\na"}, "IPA_PROMETHEUS_TENANT='team\\na' has characters"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused_without_their_secrets(
    settings: Settings, changes: dict[str, str], words: str
) -> None:
    wrong = replace(settings, **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError) as caught:
        check_connection(wrong)
    problems = [problem.message for problem in caught.value.problems]
    assert any(words in problem for problem in problems), problems
    assert "hunter2" not in " ".join(problems)


def test_a_key_of_another_certificate_is_refused(settings: Settings, authority: Authority) -> None:
    _, key_file = authority.issue("another")
    with pytest.raises(ConfigurationError) as caught:
        check_connection(replace(settings, prometheus_key_file=key_file))
    assert "KEY_VALUES_MISMATCH" in caught.value.problems[0].message


def looked(settings: Settings) -> dict[str, Finding]:
    """The findings about the server, by name."""
    (server,) = metrics_checks(settings, {}, "")
    return {finding.name: finding for finding in server.look()}


def test_doctor_says_which_setting_is_wrong_and_that_a_token_is_readable(
    settings: Settings, guarded: Guarded
) -> None:
    assert looked(settings)["prometheus"] == Finding("prometheus", Severity.OK, f"{guarded.url} answers")
    wrong = looked(replace(settings, prometheus_token=TOKEN))["prometheus"]
    assert wrong.state is Severity.FAIL and "are both set; leave one out" in wrong.seen
    refused = looked(replace(settings, prometheus_tenant=""))["prometheus"]
    assert refused.state is Severity.FAIL and "HTTP 401: it refuses" in refused.seen
