"""Settings from the environment: right values, and every wrong one named at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ipa.cli.main import run
from ipa.model.errors import ConfigurationError
from ipa.model.masking import HIDDEN
from ipa.service.configuration import configuration
from ipa.settings import FILE, GROUPS, SECRETS, SETTINGS, Settings, SettingSource


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


HEAD = "apiVersion: ipa/v1\nkind: Settings\n"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file of settings."""
    monkeypatch.chdir(tmp_path)
    FILE.write_text(
        HEAD + "store: {keep_decisions_days: 90}\nloop: {tick_s: 5}\nfiles: {pipelines_dir: there}\n"
    )
    return tmp_path / FILE


def test_every_setting_is_in_one_group_under_a_key_of_its_own() -> None:
    names = [name for keys in GROUPS.values() for name in keys.values()]
    assert sorted(names) == sorted(each.name for each in SETTINGS)
    assert (GROUPS["store"]["url"], GROUPS["lease"]["lease_s"]) == ("store_url", "lease_s")


@pytest.mark.usefixtures("written")
def test_the_file_comes_before_the_defaults_the_environment_before_it_and_an_option_before_both() -> None:
    settings = Settings.from_env({"IPA_TICK_S": "6", "IPA_PORT": "9000"}, port=9001)
    assert (settings.keep_decisions_days, settings.tick_s, settings.port) == (90.0, 6.0, 9001)
    assert settings.pipelines_dir == Path("there")
    found = {each.variable: each for each in configuration(settings).settings}
    assert (found["IPA_KEEP_DECISIONS_DAYS"].source, found["IPA_KEEP_DECISIONS_DAYS"].where) == (
        SettingSource.FILE,
        "ipa.yaml:3",
    )
    assert (found["IPA_TICK_S"].source, found["IPA_TICK_S"].where) == (
        SettingSource.ENVIRONMENT,
        "IPA_TICK_S",
    )
    assert (found["IPA_PORT"].source, found["IPA_HOST"].source) == (
        SettingSource.OPTION,
        SettingSource.DEFAULT,
    )


def test_the_problems_of_the_file_and_of_the_environment_are_named_at_once(written: Path) -> None:
    written.write_text(
        HEAD
        + "stor: {}\nprometheus: {url: x, token: abc}\nloop: {tick_s: -1}\napi: {names: al}\n"
        + "control: {calibrate: on}\n"
    )
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"IPA_PORT": "-1"})
    assert caught.value.message == "ipa.yaml and the environment have settings that cannot be used"
    assert [str(problem) for problem in caught.value.problems] == [
        "ipa.yaml:3:1: unknown key 'stor'; did you mean 'store'?",
        'ipa.yaml:4:19: url is "x", which is not an http or https URL',
        "ipa.yaml:4:22: unknown key 'token'; did you mean 'token_file'?",
        "ipa.yaml:5:16: tick_s is -1, which is not above 0",
        'ipa.yaml:6:14: names is "al"; expected one of any, prefixed',
        'ipa.yaml:7:22: calibrate is "on"; expected true or false',
        "IPA_PORT='-1' is below 0",
    ]


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"IPA_CONFIG_FILE='.*/none.yaml' is not a file"):
        Settings.from_env({"IPA_CONFIG_FILE": str(tmp_path / "none.yaml")})
    (tmp_path / "other.yaml").write_text("replicas: 2\n")
    with pytest.raises(ConfigurationError, match="lacks the key 'kind'"):
        Settings.from_env({"IPA_CONFIG_FILE": str(tmp_path / "other.yaml")})


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


def test_the_fields_that_hide_themselves_are_the_secrets() -> None:
    assert {"prometheus_token"} == SECRETS
    assert "CANARY" not in repr(Settings(prometheus_token="CANARY"))


def test_the_settings_in_effect_are_shown(
    written: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IPA_PROMETHEUS_TOKEN", "CANARY")
    assert run(["config", "show", "loop", "prometheus", "--changed"]) == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines()[1:]]
    assert rows == [
        ["IPA_PROMETHEUS_TOKEN", "prometheus.token", HIDDEN, "IPA_PROMETHEUS_TOKEN"],
        ["IPA_TICK_S", "loop.tick_s", "5", "ipa.yaml:4"],
    ]
    assert run(["config", "show", "-o", "json"]) == 0
    assert len(json.loads(capfd.readouterr().out)["settings"]) == len(SETTINGS)
    assert run(["config", "show", "stor"]) == 64
    assert "did you mean 'store'?" in capfd.readouterr().err
    assert run(["validate", str(written)]) == 0
    assert "OK " in capfd.readouterr().out
    written.write_text(HEAD + "loop: {tick: 5}\n")
    assert run(["config", "show"]) == 78
    assert "unknown key 'tick'; did you mean 'tick_s'?" in capfd.readouterr().err
