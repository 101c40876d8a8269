"""Settings that cannot work are all named before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipa.bootstrap import app as bootstrap
from ipa.cli.main import run


def test_everything_wrong_is_said_at_once_before_a_model_server_starts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    assert run(["serve", "ocr", "--target", "local", "--folder", str(tmp_path / "local")]) == 78
    said = capsys.readouterr().err
    for words in (
        "IPA_FORECAST_TRACE",
        "IPA_ACTUATION=gitops needs the target kubernetes",
        "IPA_GITOPS_DIR",
        "IPA_LEADER_ELECTION=on needs the target kubernetes",
    ):
        assert words in said
    assert started == []
    assert not (tmp_path / "local").exists()
