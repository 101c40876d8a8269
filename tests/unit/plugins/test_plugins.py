"""Plug-ins are found by name, and each way in which one can be wrong is one short, named error."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipa import plugins
from ipa.control.loop.time_limit import MOST_LATE, TimeLimit
from ipa.forecast.ladder import forecast, make_forecaster, rungs_of
from ipa.forecast.registry import FORECASTERS
from ipa.model.decision import Action, ReasonCode
from ipa.model.errors import ConfigurationError, InputError, IpaError, PluginError, UsageError
from ipa.model.observation import LoadHistory
from ipa.plugins import OURS, Plugin, Registry
from ipa.policies.base import Policy, PolicyState
from ipa.policies.registry import POLICIES
from ipa.policies.table import PolicyInputs, make_policy
from ipa.settings import Settings
from tests.fakes.policy_contract import LARGE, expected, observed_with
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST, scenario

BUILT_IN = {"round": "ipa.model.recording:to_ms", "sums": "math:fsum"}


@pytest.fixture(name="registry")
def _registry() -> Registry:
    return Registry("ipa.tested", "tool", BUILT_IN)


@pytest.fixture(name="installed")
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two packages that declare tools: one of a name of their own each, and one of the same name."""
    for package, version in (("acme", "1.2"), ("other", "3")):
        metadata = tmp_path / f"{package}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = [f"{package}-tool = {package}_tools:Inner.tool", f"both = {package}_tools:Inner"]
        (metadata / "entry_points.txt").write_text("[ipa.tested]\n" + "\n".join(lines) + "\n")
        (tmp_path / f"{package}_tools.py").write_text(f"class Inner:\n    tool = '{package}'\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.installed.cache_clear()
    yield
    plugins.installed.cache_clear()


def test_built_in_ones_are_found_in_their_order(registry: Registry) -> None:
    assert list(registry) == ["round", "sums"]
    assert len(registry) == 2
    assert registry.load("sums")([0.5, 0.5]) == 1.0
    assert registry.find("sums").is_ours
    assert str(registry.find("sums")) == f"tool 'sums' (package {OURS})"


@pytest.mark.usefixtures("installed")
def test_installed_ones_come_after_them(registry: Registry) -> None:
    assert list(registry) == ["round", "sums", "acme-tool", "both", "other-tool"]
    assert registry.load("acme-tool") == "acme"
    assert registry.find("acme-tool") == Plugin("tool", "acme-tool", "acme_tools:Inner.tool", "acme 1.2")
    assert not registry.find("acme-tool").is_ours


@pytest.mark.usefixtures("installed")
def test_a_name_of_two_packages_is_refused_with_both(registry: Registry) -> None:
    with pytest.raises(PluginError, match=r"tool 'both' is declared by acme 1\.2 and other 3") as caught:
        registry.load("both")
    assert "module:attribute" in caught.value.hint
    assert registry.load("other-tool") == "other"


@pytest.mark.usefixtures("installed")
def test_no_package_takes_a_name_of_ours_quietly() -> None:
    with pytest.raises(PluginError, match=r"declared by ipa-serving and acme 1\.2"):
        Registry("ipa.tested", "tool", {"acme-tool": "math:fsum"}).find("acme-tool")


def test_an_unknown_name_lists_the_known_ones(registry: Registry) -> None:
    with pytest.raises(UsageError, match="there is no tool 'nothing'") as caught:
        registry.find("nothing")
    assert caught.value.hint == "There are: round, sums"


def test_code_by_reference_is_loaded_only_once_it_was_admitted(registry: Registry) -> None:
    reference = "math:pow"
    with pytest.raises(UsageError, match="there is no tool 'math:pow'") as caught:
        registry.load(reference)
    assert "from the command line and the settings" in caught.value.hint
    assert registry.admit(reference) == reference
    assert registry.load(reference)(2, 3) == 8
    assert registry.is_known(reference)
    # What a request may name stays what is installed.
    assert reference not in registry
    assert reference not in list(registry)
    assert registry.admit("sums") == "sums"


def test_what_is_here_can_be_named(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named_from_here.py").write_text("class Mine:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != ""])
    registry.admit("named_from_here:Mine")
    assert registry.load("named_from_here:Mine").__name__ == "Mine"


@pytest.mark.parametrize("reference", ["a b:c", ":x", "x:", "os:system()", "-m:x", "x:y:z"])
def test_what_is_no_reference_is_said_to_be_none(registry: Registry, reference: str) -> None:
    with pytest.raises(UsageError, match="names no tool"):
        registry.admit(reference)


FAULTS = [
    ("no_such_module_anywhere:x", "cannot be imported: ModuleNotFoundError: No module named"),
    ("math:no_such_function", "is not there: module math has no no_such_function"),
    ("broken_at_import:x", "cannot be imported: ValueError: two lines"),
    ("leaving_at_import:x", "cannot be imported: SystemExit: 3"),
]


@pytest.mark.parametrize(("reference", "words"), FAULTS)
def test_what_cannot_be_loaded_says_why(
    registry: Registry, reference: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_at_import.py").write_text("raise ValueError('two\\nlines')\n")
    (tmp_path / "leaving_at_import.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError) as caught:
        registry.admit(reference)
    assert caught.value.message.startswith(f"tool {reference!r} {words}")
    assert caught.value.__cause__ is not None
    assert not registry.is_known(reference)


def test_an_exception_is_named_with_its_plug_in_and_an_error_of_ours_stays_as_it_is() -> None:
    plugin = Plugin("tool", "acme", "acme_tools:tool", "acme 1.2")
    with pytest.raises(PluginError) as caught, plugin.guarded():
        raise ValueError("x" * 1000)
    assert caught.value.message.startswith("tool 'acme' (package acme 1.2) raised ValueError: xxx")
    assert len(caught.value.message) < 400
    for error in (InputError("said"), PluginError("said")):
        with pytest.raises(IpaError) as same, plugin.guarded():
            raise error
        assert same.value is error
    with pytest.raises(KeyboardInterrupt), plugin.guarded():
        raise KeyboardInterrupt


def test_what_is_missing_of_a_protocol_is_listed() -> None:
    plugin = Plugin("tool", "acme", "acme_tools:tool", "acme 1.2")
    plugin.check_has("text", "upper", "lower")
    with pytest.raises(PluginError, match="does not fit: a str has no decide, name"):
        plugin.check_has("text", "decide", "upper", "name")


BAD = "tests.fakes.bad_plugins"
INPUTS = PolicyInputs(PIPELINE, PROFILES, solver="exact")


def policy(name: str, **options: Any) -> Policy:
    return make_policy(POLICIES.admit(f"{BAD}:{name}"), INPUTS, **options)


PLANS = [
    ("Raising", "raised ValueError: no such column"),
    ("Leaving", "raised SystemExit: 2"),
    ("AnsweringNothing", "made an invalid plan: a NoneType instead of a Plan"),
    ("OtherStage", "made an invalid plan: its stages are nowhere"),
    ("FewerStages", "made an invalid plan: its stages are read instead of detect, read"),
    ("OtherVariant", "made an invalid plan: stage detect has no variant 'huge', it has: small, big"),
    ("NotANumber", "objective is nan instead of a number; latency_s is None instead of a number"),
    ("HalfAReplica", "detect: batch_size is True instead of a whole number above 0; detect: replicas is 0.5"),
    ("NoCapacity", "detect: cores is -1.0, which is not above 0; detect: capacity_rps is 0.0"),
    ("OptimalNothing", "it is optimal and has no stages"),
    ("NoText", "its names, note or relaxations are not text"),
]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NOT_CALLABLE", "does not fit: a str cannot be called with PolicyInputs"),
        ("NotMade", "raised KeyError: 'weights.bin'"),
        ("NoDecide", "does not fit: a NoDecide has no decide"),
        ("NoMemoryKind", "does not fit: a NoMemoryKind has no memory_kind"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_when_it_is_made(name: str, words: str) -> None:
    with pytest.raises(PluginError) as caught:
        policy(name)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *PLANS,
        ("Unbounded", "planned outside the bounds: detect: 1000 replicas are above the bound of"),
        ("ForgettingHow", "raised RuntimeError: disk full"),
        ("RememberingAList", "has a memory that is not made of frozen dataclasses"),
    ],
)
def test_the_loop_holds_and_goes_on(name: str, words: str) -> None:
    case = scenario(40.0, policy=policy(name))
    decisions = case.ticks(4)
    failed = [each for each in decisions if each.reason is ReasonCode.SOLVER_FAILED]
    assert len(failed) >= 3, decisions
    assert all(each.action is Action.HOLD for each in decisions)
    assert words in failed[0].detail and f"policy '{BAD}:{name}'" in failed[0].detail
    assert case.loop.snapshot().skipped_ticks == 0


def test_a_policy_that_cannot_say_how_urgent_its_plan_is_changes_nothing() -> None:
    # More runs than is needed, so that the loop asks.
    decisions = scenario(2.0, policy=policy("Undecided"), configs=LARGE).ticks(3)
    assert [each.reason for each in decisions] == [ReasonCode.SOLVER_FAILED] * 3
    assert "raised ZeroDivisionError: division by zero" in decisions[0].detail


def test_what_ours_does_is_left_as_it_is() -> None:
    made = policy("Changed")
    plan = made.decide(observed_with(5.0, SMALLEST), expected(5.0), PolicyState(SMALLEST))
    ours = make_policy("ours", INPUTS).decide(
        observed_with(5.0, SMALLEST), expected(5.0), PolicyState(SMALLEST)
    )
    assert plan.configs == ours.configs
    assert made.name == f"{BAD}:Changed"
    # What it leaves out of the protocols is not there.
    assert not hasattr(made, "remember") and not hasattr(made, "at_once")


def test_a_policy_that_hangs_is_given_up() -> None:
    go_on = threading.Event()
    waits: list[float] = []

    def wait(done: threading.Event, seconds: float) -> bool:
        waits.append(seconds)
        return done.wait(60.0) if go_on.is_set() else False

    runner = TimeLimit("policy 'slow'", 10.0, wait)
    for _ in range(MOST_LATE):
        with pytest.raises(PluginError, match="policy 'slow' was abandoned: no answer within 10 s"):
            runner(lambda: go_on.wait(60.0))
    with pytest.raises(PluginError, match="not asked: 4 earlier answers are still missing"):
        runner(lambda: go_on.wait(60.0))
    assert waits == [10.0] * MOST_LATE
    go_on.set()
    while True:
        try:
            assert runner(lambda: "again") == "again"
            break
        except PluginError as error:
            assert "not asked" in error.message


def test_where_an_exception_comes_from_is_in_the_log_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    failing = policy("Raising", run=TimeLimit("policy 'acme'", 10.0))
    with caplog.at_level(logging.DEBUG, "ipa.limits"), pytest.raises(PluginError):
        failing.decide(observed_with(5.0, SMALLEST), expected(5.0), PolicyState(SMALLEST))
    assert "in changed" in caplog.text and "no such\ncolumn" in caplog.text


LOAD = LoadHistory(1.0, tuple(float(5 + at % 3) for at in range(120)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("BadForecaster", "raised IndexError: list index out of range"),
        ("TupleForecaster", "answered a tuple instead of a Peak"),
        ("NanForecaster", "answered nan and nan rps"),
        ("ShortForecaster", "answered arrays of shapes (1,) and (1,) for"),
    ],
)
def test_the_ladder_steps_down_from_a_bad_forecaster(name: str, words: str) -> None:
    rungs = rungs_of(FORECASTERS.admit(f"{BAD}:{name}"))
    answer = forecast(LOAD, horizon_s=20.0, quantile=0.95, rungs=rungs)
    assert answer.rung == "last"
    (why,) = answer.steps_down
    assert words in why and why.startswith(f"{BAD}:{name}: ")


def test_what_is_no_forecaster_is_refused() -> None:
    with pytest.raises(PluginError, match="does not fit: a NoForecaster has no max_gap_ratio, min_history_s"):
        make_forecaster(FORECASTERS.admit(f"{BAD}:NoForecaster"))
    with pytest.raises(UsageError, match="exists only in a simulation"):
        rungs_of("foresight")


def test_a_setting_may_name_code_and_what_is_wrong_with_it_is_said() -> None:
    made = Settings.from_env({"IPA_FORECASTER": f"{BAD}:BadForecaster"})
    assert made.forecaster == f"{BAD}:BadForecaster"
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"IPA_SOLVER": "nowhere:x", "IPA_FORECASTER": "nobody"})
    message = str(caught.value)
    assert "IPA_SOLVER='nowhere:x' is none of auto, gurobi, highs, exact" in message
    assert (
        "IPA_FORECASTER='nobody' is not the name of a forecaster. There are: ladder, foresight, window"
        in message
    )
