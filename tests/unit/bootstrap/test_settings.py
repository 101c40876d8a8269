"""Settings from the environment: right values, and every wrong one named at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipa.model.errors import ConfigurationError
from ipa.settings import Settings


def test_overrides_come_before_the_environment_and_that_before_defaults() -> None:
    settings = Settings.from_env(
        {"IPA_TICK_S": "5", "IPA_PORT": "9000", "PATH": "/bin"}, port=9001, host=None
    )
    assert (settings.tick_s, settings.port, settings.host) == (5.0, 9001, "127.0.0.1")


def test_paths_are_paths() -> None:
    assert Settings.from_env({"IPA_PROFILES_DIR": "x/y"}).profiles_dir == Path("x/y")


@pytest.mark.parametrize(("text", "is_on"), [("on", True), ("True", True), ("off", False), ("0", False)])
def test_a_flag_is_on_or_off(text: str, is_on: bool) -> None:
    assert Settings.from_env({"IPA_CORRECT_PROFILES": text}).correct_profiles is is_on


def test_what_only_tests_and_make_read_is_no_unknown_setting() -> None:
    tests = Path(__file__).resolve().parents[2]
    texts = [file.read_text() for file in (*tests.rglob("*.py"), tests.parent / "Makefile")]
    read = {name for text in texts for name in re.findall(r'environ\.get\("(IPA_[A-Z_]+)"', text)}
    made = set(re.findall(r"\b(IPA_[A-Z_]+)=", texts[-1]))
    assert {"IPA_SHARED_DATA", "IPA_FAULT_EXPERIMENTS"} <= read
    assert Settings.from_env(dict.fromkeys((read | made) - {"IPA_CORES"}, "1")) == Settings()


def test_every_problem_is_named_at_once_with_the_nearest_name() -> None:
    wrong = {
        "IPA_TIK_S": "5",
        "IPA_PORT": "http",
        "IPA_TICK_S": "-1",
        "IPA_WINDOW_S": "nan",
        "IPA_TOLERANCE_RATIO": "0",
        "IPA_CORRECT_PROFILES": "maybe",
    }
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env(wrong)
    assert [problem.message for problem in caught.value.problems] == [
        "unknown setting IPA_TIK_S; did you mean IPA_TICK_S?",
        "IPA_PORT='http' is not a whole number",
        "IPA_TICK_S='-1' is not above 0",
        "IPA_WINDOW_S='nan' is not finite",
        "IPA_CORRECT_PROFILES='maybe' is not on or off",
    ]


def test_the_quantile_is_below_one() -> None:
    with pytest.raises(ConfigurationError, match="not below 1"):
        Settings.from_env({"IPA_FORECAST_QUANTILE": "1"})
