"""Settings from the environment: right values, and every wrong one named at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ipa.bootstrap import app as bootstrap
from ipa.model.errors import ConfigurationError
from ipa.model.masking import HIDDEN, mask_url
from ipa.service.service import configuration
from ipa.settings import GROUPS, SECRETS, SETTINGS, Settings, SettingSource
from tests.fakes.commands import Ipa


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
    assert {"IPA_SHARED_DATA", "IPA_FAULT_SEEDS"} <= read
    assert Settings.from_env(dict.fromkeys((read | made) - {"IPA_CORES"}, "1")) == Settings()


def test_every_problem_is_named_at_once_with_the_nearest_name() -> None:
    wrong = {
        "IPA_TIK_S": "5",
        "IPA_PORT": "http",
        "IPA_TICK_S": "-1",
        "IPA_WINDOW_S": "nan",
        "IPA_CHANGE_PRICE_S": "0",
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


def test_every_setting_is_in_one_group() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(each.name for each in SETTINGS)
    assert (GROUPS["store"][0], GROUPS["forecast"][0]) == ("store_url", "horizon_s")


def test_each_value_has_its_source() -> None:
    settings = Settings.from_env({"IPA_TICK_S": "6", "IPA_PORT": "9000"}, port=9001)
    sources = {each.variable: each.source for each in configuration(settings).settings}
    assert (sources["IPA_TICK_S"], sources["IPA_PORT"]) == (SettingSource.ENVIRONMENT, SettingSource.OPTION)
    assert sources["IPA_HOST"] is SettingSource.DEFAULT


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("IPA_STORE_URL", "postgresql+psycopg://ipa:CANARY@db/ipa", "postgresql+psycopg://***@db/ipa"),
        (
            "IPA_STORE_URL",
            "postgresql://db/ipa?user=ipa&password=CANARY",
            "postgresql://db/ipa?user=***&password=***",
        ),
        ("IPA_STORE_URL", "postgresql://ipa:CAN@ARY/CANARY@db/ipa", "postgresql://***@db/ipa"),
        ("IPA_STORE_URL", "sqlite:///runs/ipa.sqlite3", "sqlite:///runs/ipa.sqlite3"),
        ("IPA_GITOPS_REMOTE", "https://CANARY@git.example/x.git", "https://***@git.example/x.git"),
        ("IPA_GITOPS_REMOTE", "ssh://git@git.example/x.git", "ssh://***@git.example/x.git"),
        ("IPA_PROMETHEUS_TOKEN", "CANARY", HIDDEN),
        ("IPA_PROMETHEUS_TOKEN", "", ""),
    ],
)
def test_secrets_and_passwords_are_hidden(variable: str, value: str, shown: str) -> None:
    view = configuration(Settings.from_env({variable: value}))
    assert [each.value for each in view.settings if each.variable == variable] == [shown]
    assert "CANARY" not in repr(view)


def test_a_path_is_shown_unless_it_may_be_secret() -> None:
    assert mask_url("https://hooks.example/x/y") == "https://hooks.example/x/y"
    assert mask_url("https://hooks.example/x/y", path=True) == "https://hooks.example/***"


def test_the_fields_that_hide_themselves_are_the_secrets() -> None:
    assert {"prometheus_token"} == SECRETS
    assert "CANARY" not in repr(Settings(prometheus_token="CANARY"))


def test_the_settings_in_effect_are_shown(monkeypatch: pytest.MonkeyPatch, ipa: Ipa) -> None:
    monkeypatch.setenv("IPA_PROMETHEUS_TOKEN", "CANARY")
    monkeypatch.setenv("IPA_TICK_S", "5")
    rows = [
        line.split() for line in ipa("config", "show", "loop", "prometheus", "--changed").out.splitlines()[1:]
    ]
    assert rows == [
        ["IPA_PROMETHEUS_TOKEN", "prometheus", HIDDEN, "environment"],
        ["IPA_TICK_S", "loop", "5", "environment"],
    ]
    assert len(json.loads(ipa("config", "show", "-o", "json").out)["settings"]) == len(SETTINGS)
    assert "did you mean 'store'?" in ipa("config", "show", "stor", code=64).err
    monkeypatch.setenv("IPA_TIK_S", "5")
    assert "unknown setting IPA_TIK_S; did you mean IPA_TICK_S?" in ipa("config", "show", code=78).err


def test_everything_wrong_is_said_at_once_before_a_model_server_starts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    started: list[object] = []
    monkeypatch.setattr(bootstrap, "Site", lambda **_: started.append(1))
    monkeypatch.setattr(bootstrap, "open_from", lambda *_: started.append(1))
    trace = tmp_path / "trace.txt"
    trace.write_text("ten\n")
    given = {
        "IPA_PIPELINES_DIR": str(root / "pipelines"),
        "IPA_PROFILES_DIR": str(root / "profiles"),
        "IPA_PORT": "0",
        "IPA_FORECAST_TRACE": str(trace),
        "IPA_ACTUATION": "gitops",
        "IPA_GITOPS_DIR": str(tmp_path / "nothing"),
        "IPA_LEADER_ELECTION": "on",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    errors = ipa("serve", "ocr", "--target", "local", "--folder", str(tmp_path / "local"), code=78).err
    for words in (
        "IPA_FORECAST_TRACE",
        "IPA_ACTUATION=gitops needs a target that writes a cluster: kubernetes or deployments",
        "IPA_GITOPS_DIR",
        "IPA_LEADER_ELECTION=on needs a target that writes a cluster: kubernetes or deployments",
    ):
        assert words in errors
    assert started == []
    assert not (tmp_path / "local").exists()
