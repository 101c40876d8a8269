"""KEDA's external scaler, asked over the wire with what a client made from KEDA's own protocol sends."""

from __future__ import annotations

import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import yaml

from ipa.adapters.metrics.publish import Catalogue
from ipa.api.external_scaler import OPTIONS, external_scaler
from ipa.metering import table
from ipa.metering.make import new_registry
from ipa.model.errors import UnavailableError, UsageError
from ipa.settings import Settings
from tests.unit.targets.test_scale_target import ADVISED

REF = b"\n\x0cpages-detect\x12\x04shop\x1a\x11\n\x08pipeline\x12\x05pages\x1a\x0f\n\x05stage\x12\x06detect"
ASKED = b"\n8" + REF + b"\x12\x14ipa_desired_replicas"
THREE = b"\n!\n\x14ipa_desired_replicas\x10\x03\x19\x00\x00\x00\x00\x00\x00\x08@"
ONE_EACH = b"\n!\n\x14ipa_desired_replicas\x10\x01\x19\x00\x00\x00\x00\x00\x00\xf0?"


@pytest.fixture
def settings() -> Settings:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return Settings(keda_port=free.getsockname()[1])


def asked(settings: Settings, method: str, body: bytes) -> bytes | tuple[str, str]:
    """The answer's bytes, or the status and its words."""
    with grpc.insecure_channel(f"127.0.0.1:{settings.keda_port}") as channel:
        call = channel.unary_unary(f"/externalscaler.ExternalScaler/{method}")
        try:
            answer: bytes = call(body, timeout=30.0)
        except grpc.RpcError as error:
            return error.code().name, error.details()
    return answer


def test_keda_reads_what_prometheus_would(settings: Settings) -> None:
    registry = new_registry()
    catalogue = Catalogue(registry, [ADVISED], tick_s=10.0)
    tick = catalogue.gauge(table.LAST_TICK, "pages")
    with external_scaler(settings, registry, {"pages": ADVISED}):
        unplanned = "UNAVAILABLE", "pages has no valid plan. `ipa why pages` says why."
        assert asked(settings, "GetMetrics", ASKED) == unplanned
        catalogue.gauge(table.DESIRED_REPLICAS, "pages", "detect").set(3)
        tick.set(time.time())
        assert asked(settings, "GetMetrics", ASKED) == THREE
        assert asked(settings, "IsActive", REF) == b"\x08\x01"
        assert asked(settings, "GetMetricSpec", REF) == ONE_EACH
        for wrong, code, words in (
            (REF.replace(b"detect", b"reader"), "NOT_FOUND", "no stage 'reader' of a pipeline 'pages'"),
            (REF.replace(b"pages\x1a", b"other\x1a"), "NOT_FOUND", "of a pipeline 'other'"),
            (b"\n\x05pages", "INVALID_ARGUMENT", "metadata has no pipeline and no stage"),
        ):
            status, said = asked(settings, "IsActive", wrong)
            assert status == code and words in said  # type: ignore[operator]
        tick.set(time.time() - 3600)
        status, said = asked(settings, "IsActive", REF)
        assert status == "UNAVAILABLE" and "and not again" in said  # type: ignore[operator]
        # The type external-push of triggers is not served.
        assert asked(settings, "StreamIsActive", REF)[0] == "UNIMPLEMENTED"


def test_a_connection_that_says_nothing_is_closed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPTIONS, "server_handshake_timeout_ms", 100)
    address = ("127.0.0.1", settings.keda_port)
    with external_scaler(settings, new_registry(), ()), socket.create_connection(address, 30.0) as idle:
        while idle.recv(1000):
            pass
        assert asked(settings, "IsActive", REF)[0] == "NOT_FOUND"


def test_what_cannot_be_served_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(given: Settings) -> str:
        scaler = external_scaler(given, new_registry(), ())
        with pytest.raises((UsageError, UnavailableError)) as error, scaler:
            pass
        return str(error.value)

    assert "KEDA has no token" in refused(replace(settings, metrics_access="token"))
    with socket.create_server(("127.0.0.1", settings.keda_port)):
        assert f"cannot listen on 127.0.0.1:{settings.keda_port}" in refused(settings)
    monkeypatch.setitem(sys.modules, "grpc", None)
    assert "the extra is missing" in refused(settings)


def test_the_manifest_names_a_stage_of_the_example(root: Path) -> None:
    names = (root / "deploy" / "autoscaling" / f"{name}.yaml" for name in ("keda", "keda-external"))
    asks_prometheus, asks_us = (yaml.safe_load(each.read_text())["spec"] for each in names)
    (trigger,) = asks_us.pop("triggers")
    del asks_prometheus["triggers"]
    assert asks_us == asks_prometheus
    assert (trigger["type"], trigger["metricType"]) == ("external", "AverageValue")
    assert trigger["metadata"].keys() == {"scalerAddress", "pipeline", "stage"}
    assert ADVISED.stage(trigger["metadata"]["stage"]) and trigger["metadata"]["pipeline"] == ADVISED.name
