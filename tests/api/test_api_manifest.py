"""The verbs on a SeldonDeployment's manifest, as it is in a repository."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.cli.main import run

Ipa = Callable[..., tuple[int, str, str]]
RATE = "30"


@pytest.fixture
def manifest(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(root / "pipelines" / "video" / "seldondeployment.yaml", tmp_path / "video.yaml"))


@pytest.fixture
def ipa(
    root: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Ipa:
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(root / "pipelines"))
    monkeypatch.setenv("IPA_PROFILES_DIR", str(root / "profiles"))
    monkeypatch.setenv("IPA_SOLVER", "exact")

    def command(*words: str) -> tuple[int, str, str]:
        code = run([*words, "--at", str(manifest)])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return command


def configs(ipa: Ipa) -> list[dict[str, Any]]:
    found = json.loads(ipa("status", "video", "-o", "json")[1])
    return [stage["config"] for stage in found["live"]["stages"]]


def edit(path: Path, change: Callable[[Any], None]) -> None:
    data = yaml.safe_load(path.read_text())
    change(data)
    path.write_text(yaml.safe_dump(data, sort_keys=False))


def container(data: Any, stage: int) -> Any:
    return data["spec"]["predictors"][0]["componentSpecs"][stage]["spec"]["containers"][0]


def test_status_is_what_the_manifest_asks_for(ipa: Ipa, manifest: Path) -> None:
    code, out, _ = ipa("status")
    assert code == 0
    for word in ("Pipeline video", "yolov5n", "resnet18", "–/1", f"as {manifest} asks for"):
        assert word in out


def test_diff_writes_nothing(ipa: Ipa, manifest: Path) -> None:
    before = manifest.read_bytes()
    code, out, _ = ipa("diff", "video", "--rate", RATE, "--detailed-exitcode")
    assert code == 2 and "~ crop" in out
    assert manifest.read_bytes() == before


def test_apply_replaces_only_the_values_that_differ(ipa: Ipa, manifest: Path) -> None:
    mark = "# Owned by the vision team.\n"
    text = (mark + manifest.read_text()).replace("- name: crop\n", "- name: crop  # see #12\n", 1)
    manifest.write_text(text + "---\nkind: ConfigMap\nmetadata: {name: other}  # theirs\n")
    manifest.chmod(0o640)
    before = manifest.read_text().splitlines()
    wanted = json.loads(ipa("diff", "video", "--rate", RATE, "-o", "json")[1])["stages"]
    code, out, _ = ipa("apply", "video", "--rate", RATE, "--by", "kim")
    assert code == 0 and "commit it to roll it out" in out
    after = manifest.read_text().splitlines()
    assert len(after) == len(before)
    changed = {new.split(":")[0].strip() for old, new in zip(before, after, strict=True) if old != new}
    assert changed <= {"- replicas", "value", "cpu"} and "- replicas" in changed
    assert [{**stage["wanted"], "stage": stage["stage"]} for stage in wanted] == configs(ipa)
    assert manifest.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in manifest.parent.iterdir()] == [manifest.name]
    code, out, _ = ipa("apply", "video", "--rate", RATE)
    assert code == 0 and "already has this configuration" in out
    assert manifest.read_text().splitlines() == after


def test_apply_through_a_link_keeps_the_link_and_the_line_ends(ipa: Ipa, manifest: Path) -> None:
    real = manifest.with_name("real.yaml")
    real.write_bytes(manifest.read_bytes().replace(b"\n", b"\r\n"))
    manifest.unlink()
    manifest.symlink_to(real)
    assert ipa("apply", "video", "--rate", RATE)[0] == 0
    assert manifest.is_symlink()
    text = real.read_bytes()
    assert text.count(b"\r\n") == text.count(b"\n") > 0


def test_fields_that_come_are_written_where_no_comment_is_lost(ipa: Ipa, manifest: Path) -> None:
    edit(manifest, lambda data: data["spec"]["predictors"][0]["componentSpecs"][1].pop("replicas"))
    edit(manifest, lambda data: container(data, 0).update(livenessProbe={"periodSeconds": 7}))
    commented = "# Owned by the vision team.\n" + manifest.read_text()
    bare = manifest.read_text()
    manifest.write_text(commented)
    code, _, err = ipa("apply", "video", "--rate", RATE)
    assert code == 65 and "would lose its comments" in err and "componentSpecs/1/replicas" in err
    assert manifest.read_text() == commented
    manifest.write_text(bare)
    assert ipa("apply", "video", "--rate", RATE)[0] == 0
    assert container(yaml.safe_load(manifest.read_text()), 0)["livenessProbe"] == {"periodSeconds": 7}
    assert configs(ipa)[1]["replicas"] > 1


def test_a_value_shared_by_an_anchor_is_not_changed_in_two_places(ipa: Ipa, manifest: Path) -> None:
    text = manifest.read_text().replace("- replicas: 1", "- replicas: &one 1", 1)
    manifest.write_text(text.replace("- replicas: 1", "- replicas: *one", 1))
    wanted = json.loads(ipa("diff", "video", "--rate", RATE, "-o", "json")[1])["stages"]
    assert ipa("apply", "video", "--rate", RATE)[0] == 0
    assert [stage["wanted"]["replicas"] for stage in wanted] == [each["replicas"] for each in configs(ipa)]


def test_a_file_that_moved_meanwhile_is_not_written(
    ipa: Ipa, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipa.files.plans import plan_in

    def slowly(plan: Any, name: str) -> Any:
        manifest.write_text(manifest.read_text() + "# later\n")
        return plan_in(plan, name)

    monkeypatch.setattr("ipa.files.plans.plan_in", slowly)
    code, _, err = ipa("apply", "video", "--rate", RATE)
    assert code == 4 and "when the change was decided" in err
    assert manifest.read_text().endswith("# later\n")


def test_a_file_that_cannot_be_replaced_stays_whole(
    ipa: Ipa, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = manifest.read_bytes()
    monkeypatch.setattr("os.fsync", full)
    code, _, err = ipa("apply", "video", "--rate", RATE)
    assert code == 65 and "No space left" in err
    assert manifest.read_bytes() == before
    assert [path.name for path in manifest.parent.iterdir()] == [manifest.name]


def test_what_is_no_plan_of_ours_is_shown_and_not_written(ipa: Ipa, manifest: Path) -> None:
    edit(manifest, lambda data: container(data, 0).update(image="theirs:1"))
    before = manifest.read_bytes()
    code, out, _ = ipa("status", "video")
    assert code == 5 and "runs none of its variants" in out
    assert ipa("apply", "video", "--rate", RATE)[0] == 4
    assert manifest.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["history", "video"], 64, "git"),
        (["history", "video", "--verify"], 64, "git"),
        (["rollback", "video"], 64, "git"),
        (["watch", "video"], 64, "nothing to watch"),
        (["pause", "video"], 64, "needs a service"),
        (["resume", "video"], 64, "needs a service"),
        (["diff", "video"], 64, "--rate is needed"),
        (["status", "nlp"], 1, "The file has: default/video"),
    ],
)
def test_what_a_file_cannot_do_is_said(ipa: Ipa, words: list[str], code: int, said: str) -> None:
    found, _, err = ipa(*words)
    assert (found, said in err) == (code, True), err


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("kind: [", 65, "video.yaml:1:8"),
        ("{{ template }}: x: y\n", 65, "not YAML"),
        ("", 1, "The file has: none"),
        ("- kind\n", 1, "The file has: none"),
        ("kind: SeldonDeployment\nmetadata: {name: video}\nspec: {predictors: [{}]}\n", 65, "is incomplete"),
        ("kind: SeldonDeployment\nmetadata: {name: video}\nspec: [1]\n", 65, "is incomplete"),
        ("kind: SeldonDeployment\nmetadata: {name: video}\n", 5, ""),
    ],
)
def test_a_broken_file_is_said(ipa: Ipa, manifest: Path, text: str, code: int, said: str) -> None:
    manifest.write_text(text)
    found, _, err = ipa("status", "video")
    assert (found, said in err) == (code, True), err
    manifest.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in ipa("status", "video")[2]
    manifest.unlink()
    assert "is not a file" in ipa("status", "video")[2]
