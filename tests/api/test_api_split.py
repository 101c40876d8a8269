"""The verbs on a pipeline of shape split, on a cluster (a fake API server) and in a manifest."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ipa.cli.main import run
from tests.api.test_api_cluster import SMALL, Cli, ipa  # noqa: F401  (a fixture)

# Needs more of both stages than the small rate, and a second batch size.
BUSY = "20"


@pytest.fixture
def split(ipa: Cli, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:  # noqa: F811
    given = yaml.safe_load((root / "pipelines/video/pipeline.yaml").read_text(encoding="utf-8"))
    given["seldon"] |= {"shape": "split", "image": "registry.example/ipa:1"}
    folder = tmp_path / "pipelines" / "video"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(folder.parent))
    return ipa


def names(split: Cli) -> list[str]:
    with split.kube.store.lock:
        return sorted(one["metadata"]["name"] for one in split.kube.store.everything("seldondeployments"))


def test_every_part_is_created_changed_and_taken_back(split: Cli) -> None:
    assert split("apply", "video", "--rate", SMALL)[0] == 0
    parts = [f"video-{stage}-{role}" for stage in ("classification", "crop") for role in ("model", "queue")]
    assert names(split) == sorted([*parts, "video-router"])
    first = split.stages()
    split.kube.writes.clear()
    code, out, _ = split("apply", "video", "--rate", BUSY)
    assert code == 0, out
    assert split.stages() != first
    changed = {request.name for request in split.kube.writes}
    assert changed and "video-router" not in changed
    assert split("rollback", "video")[0] == 0
    assert split.stages() == first
    code, out, _ = split("status", "video")
    assert code == 0, out


def test_a_part_that_is_gone_is_said_and_made_anew(split: Cli) -> None:
    assert split("apply", "video", "--rate", SMALL)[0] == 0
    before = split.stages()
    with split.kube.store.lock:
        split.kube.store.delete("seldondeployments", "default", "video-crop-queue")
    code, out, _ = split("status", "video")
    assert code == 5 and "video-crop-queue not found in default: 4 of 5 are there" in out
    assert split("apply", "video", "--rate", SMALL)[0] == 0
    assert split.stages() == before


def test_a_manifest_of_all_parts_is_rewritten_where_it_differs(
    split: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["render", "video", "--rate", SMALL]) == 0
    path = tmp_path / "video.yaml"
    path.write_text(capfd.readouterr().out, encoding="utf-8")
    before = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert run(["apply", "video", "--rate", BUSY, "--at", str(path)]) == 0
    assert "rewritten" in capfd.readouterr().out
    after = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert after != before
    assert [one["metadata"]["name"] for one in after] == [one["metadata"]["name"] for one in before]
    assert after[-1] == before[-1]
