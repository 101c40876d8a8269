"""A target of somebody else's package: found by its entry point, served without a line of ours changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ipa import plugins
from ipa.cli.main import run
from ipa.files import load_pipeline, pipeline_to_mapping, pipelines, targets
from tests.fakes.commands import Ipa
from tests.fakes.waiting import until

TOY = Path(__file__).parents[1] / "fakes" / "toy"
# The rate for which no plan of before is good enough.
LOAD_RPS, MORE_RPS = 5.0, 9.0


def forget() -> None:
    """The cached packages that are installed."""
    for cached in (plugins.installed, targets.target_sections, pipelines.pipeline_form):
        cached.cache_clear()


@pytest.fixture
def house(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the pipeline video, which runs on the toy; the toy's package is on the path."""
    (tmp_path / "profiles").symlink_to(root / "profiles")
    given = yaml.safe_load((root / "pipelines/video/pipeline.yaml").read_text())
    del given["drop_after"]
    write(tmp_path, {**given, "toy": {"load": f"{LOAD_RPS:g}rps"}})
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPA_STORE_URL", f"sqlite:///{tmp_path / 'runs' / 'ipa.sqlite3'}")
    monkeypatch.syspath_prepend(TOY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TOY), str(root)]))
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()


def write(house: Path, pipeline: dict[str, Any]) -> Path:
    path = house / "pipelines" / "video" / "pipeline.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    return path


def json_of(ipa: Ipa, *words: str, code: int = 0) -> Any:
    """The JSON that the command line prints."""
    return json.loads(ipa(*words, "-o", "json", code=code).out)


def test_its_section_is_read_written_and_checked(house: Path, ipa: Ipa) -> None:
    path = house / "pipelines/video/pipeline.yaml"
    pipeline = load_pipeline(path)
    assert pipeline_to_mapping(pipeline)["toy"] == {"load": "5rps"}
    given = yaml.safe_load(path.read_text())
    write(house, {**given, "toy": {"load": 5, "loads": 1}})
    wrong = ipa("validate", code=65).err
    assert "load is 5, which has no unit" in wrong and "unknown key 'loads'" in wrong


def test_what_it_cannot_honour_is_refused_with_the_remedy(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = yaml.safe_load((house / "pipelines/video/pipeline.yaml").read_text())
    write(house, {**given, "drop_after": "2s"})
    for words in (["plan", "video", "--rate", "5"], ["render", "video"]):
        assert run([*words, "--at", "toy"]) != 0
        refused = capsys.readouterr().err
        assert "drop_after: target toy drops no request by its age; leave it out" in refused
    assert run(["serve", "video", "--target", "toy", "--port", "0"]) != 0
    assert "drop_after" in capsys.readouterr().err


def test_a_plan_counts_the_toy_s_own_cores(house: Path, ipa: Ipa) -> None:
    free = json_of(ipa, "plan", "video", "--rate", "5")
    there = json_of(ipa, "plan", "video", "--rate", "5", "--at", "toy")
    assert there["cost_cores"] == pytest.approx(free["cost_cores"] + 0.25)
    assert yaml.safe_load(ipa("render", "video", "--rate", "5", "--at", "toy").out)["pipeline"] == "video"


def test_the_service_the_loop_and_the_page_run_on_it(house: Path) -> None:
    command = [sys.executable, "-c", "from ipa.cli.main import main; main()", "serve", "video"]
    given = ["--target", "toy", "--port", "0", "--mode", "active", "--rate", "1", "--folder", "kept"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "IPA_TICK_S": "1"}
    log = house / "log.txt"
    with (
        log.open("w") as lines,
        subprocess.Popen(
            [*command, *given], cwd=house, env=environment, stdout=subprocess.PIPE, stderr=lines, text=True
        ) as service,
    ):
        try:
            assert service.stdout is not None
            url = next((line for line in service.stdout if "http://" in line), "").split()
            assert url, log.read_text()
            with httpx.Client(base_url=url[-1], trust_env=False, timeout=300) as client:
                running = lambda: client.get("/v1/pipelines/video/status").json()  # noqa: E731
                until(lambda: "apply" in str(client.get("/v1/pipelines/video/decisions").json()), 60.0)
                assert running()["live"]["rate_rps"] == pytest.approx(LOAD_RPS)
                assert "<html" in client.get("/").text
                assert client.post("/v1/pipelines/video/plans", json={"rate_rps": MORE_RPS}).json()["stages"]
                shown = subprocess.run(
                    [
                        *command[:3],
                        "watch",
                        "video",
                        "--at",
                        url[-1],
                        "--until",
                        "settled",
                        "--timeout",
                        "30s",
                        "-o",
                        "json",
                    ],
                    env=environment,
                    cwd=house,
                    capture_output=True,
                    text=True,
                    check=False,
                )
        finally:
            service.terminate()
        assert service.wait(30) == 0
    stored = json.loads((house / "kept" / "video.json").read_text())
    assert stored["revision"] > 1, "the loop has written"
    assert shown.returncode == 0, shown.stderr
