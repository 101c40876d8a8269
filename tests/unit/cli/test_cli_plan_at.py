"""`ipa plan --at kubernetes`: what runs there beside the replicas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.cli.main import run
from ipa.cli.planning import Question


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.chdir(root)


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["plan", "video", "--rate", "10", "-o", "json", *arguments]) == 0
    best: dict[str, Any] = json.loads(capsys.readouterr().out)
    return best


def test_the_orchestrator_counts_on_a_cluster_only(capsys: pytest.CaptureFixture[str]) -> None:
    here, there = plan(capsys), plan(capsys, "--at", "kubernetes")
    cores = [sum(it["replicas"] * it["cores"] for it in best["stages"]) for best in (here, there)]
    assert (here["cost_cores"], there["cost_cores"]) == (cores[0], cores[1] + 0.5)
    # Replicas that batch for themselves help each other less than those of one queue.
    assert there["cost_cores"] > here["cost_cores"] + 0.5
    assert run(["plan", "video", "--rate", "10", "--at", "kubernetes"]) == 0
    assert "(0.5 beside the replicas)" in capsys.readouterr().out
    assert run(["plan", "video", "--rate", "10"]) == 0
    assert "beside" not in capsys.readouterr().out


def test_beside_the_first_stage_it_multiplies_and_the_budget_holds_with_it(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = yaml.safe_load((root / "pipelines/video/pipeline.yaml").read_text(encoding="utf-8"))
    given["seldon"] |= {"separate_orchestrator": False, "orchestrator_cores": 1.0}
    (tmp_path / "video").mkdir()
    (tmp_path / "video/pipeline.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    where = ("--pipelines-dir", str(tmp_path))
    best = plan(capsys, "--at", "kubernetes", *where)
    first, *_ = best["stages"]
    replicas = sum(stage["replicas"] * stage["cores"] for stage in best["stages"])
    assert best["cost_cores"] == pytest.approx(replicas + first["replicas"])
    least = plan(capsys, *where)["cost_cores"]
    given["bounds"] = {**given.get("bounds", {}), "cores": least}
    (tmp_path / "video/pipeline.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    assert plan(capsys, *where)["cost_cores"] <= least
    code = run(["plan", "video", "--rate", "10", "-o", "json", "--at", "kubernetes", *where])
    tight = json.loads(capsys.readouterr().out)
    assert code == 3 or tight["cost_cores"] <= least
    assert tight["stages"] != best["stages"]


def test_every_verb_that_plans_counts_alike(capsys: pytest.CaptureFixture[str]) -> None:
    cost_cores = plan(capsys, "--at", "kubernetes")["cost_cores"]
    assert Question("video", at="kubernetes").plan(10.0).cost_cores == cost_cores


def test_where_it_makes_no_difference_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "video", "--rate", "10", "--at", "mars"]) == 64
    assert "There are: kubernetes" in capsys.readouterr().err
