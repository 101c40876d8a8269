"""`ipa demo`: it starts with a configuration that carries its load, and says which settings it ignores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipa.bootstrap.targets import ServeOptions
from ipa.cli.main import run
from ipa.cli.verbs import serve
from ipa.files.pipelines import packaged_example
from ipa.model.errors import UnavailableError
from ipa.service.simulation import as_served
from ipa.settings import Settings
from ipa.simulate.run import simulate
from ipa.targets.base import target_named

# What a guest looks at first: half a minute of the demo, which is five of its simulated ones.
FIRST_S = 300


@pytest.fixture
def demo_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, ServeOptions]]:
    """The runs of the demo."""
    runs: list[tuple[Settings, ServeOptions]] = []
    monkeypatch.setattr(serve, "run_service", lambda *arguments: runs.append(arguments[:2]))
    return runs


def test_it_says_which_settings_of_a_real_service_it_ignores(
    demo_runs: list[tuple[Settings, ServeOptions]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("IPA_AUTH", "keys")
    monkeypatch.setenv("IPA_TARGET", "kubernetes")
    assert run(["demo"]) == 0
    assert "ipa: the demo ignores IPA_TARGET, IPA_AUTH\n" in capsys.readouterr().err
    (settings, _), *_ = demo_runs
    assert (settings.auth, settings.target) == ("", "simulated")
    monkeypatch.delenv("IPA_AUTH")
    monkeypatch.delenv("IPA_TARGET")
    assert run(["demo"]) == 0
    assert "ignores" not in capsys.readouterr().err


@pytest.mark.parametrize("rates", ["2:18", "6:6", "5:30"])
def test_the_first_half_minute_is_in_time(
    rates: str, demo_runs: list[tuple[Settings, ServeOptions]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--rates", rates]) == 0
    assert ("The load is steady." in capsys.readouterr().out) == (rates == "6:6")
    (settings, options), *_ = demo_runs
    assert options.simulated is not None
    load = tuple(options.simulated.rates_rps[:FIRST_S].tolist())
    assert options.start_rate_rps == max(load[: serve.START_S])
    pipeline, profiles = packaged_example()
    setup = as_served(pipeline, profiles, load, settings, target_named("simulated"))
    result = simulate(replace(setup, start_s=serve.START_S))
    summary: dict[str, Any] = result.summary()
    assert summary["violation_ratio"] < 0.01
    # The page scales its latency axis to the longest.
    assert summary["latency_max_s"] < 2 * result.sla_s


def test_its_time_begins_when_all_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[float] = []

    def build(settings: Settings, options: ServeOptions) -> Any:
        assert options.simulated is not None
        built.append(options.simulated.pace.elapsed_s)
        assert options.simulated.pace.began_s is None
        raise UnavailableError("enough")

    monkeypatch.setattr("ipa.bootstrap.app.build", build)
    assert run(["demo", "--port", "0"]) == 1
    assert built == [0.0]
