"""Plans saved by `ipa plan --out`, and what `ipa apply` makes of them: manifest, cluster, service."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.cli.main import run
from ipa.clients.http import HttpClient
from tests.fakes.kube import FakeKube
from tests.fakes.services import FakeWorld, InProcess

Ipa = Callable[..., tuple[int, str, str]]
RATE = "30"


@dataclass
class House:
    """A folder with a pipeline, its profiles and its manifest, and the command in it."""

    folder: Path
    capfd: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> tuple[int, str, str]:
        code = run(list(words))
        out, err = self.capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    def saved(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "plan.json").read_text()))


@pytest.fixture
def house(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> House:
    for kind in ("pipelines", "profiles"):
        shutil.copytree(root / kind / "video", tmp_path / kind / "video")
    shutil.copy(root / "pipelines" / "video" / "seldondeployment.yaml", tmp_path / "video.yaml")
    monkeypatch.chdir(tmp_path)
    for name in ("IPA_PIPELINES_DIR", "IPA_PROFILES_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("IPA_SOLVER", "exact")
    monkeypatch.setattr("getpass.getuser", lambda: "kim")
    return House(tmp_path, capfd)


PLAN = ("plan", "video", "--rate", RATE, "--at", "video.yaml")
SAVE = (*PLAN, "--out", "plan.json")


def test_a_saved_plan_is_carried_out_where_it_was_made_for(house: House) -> None:
    code, out, _ = house(*SAVE, "--detailed-exitcode")
    assert code == 2 and "Saved plan.json: valid while its files and revision sha256:" in out
    saved = house.saved()
    assert set(saved["inputs"]) == {
        "pipelines/video/pipeline.yaml",
        "profiles/video/classification.yaml",
        "profiles/video/crop.yaml",
    }
    assert (saved["at"], saved["solver"], saved["rate_rps"]) == ("video.yaml", "exact", 30.0)
    code, out, _ = house("apply", "plan.json")
    assert code == 0 and "video.yaml rewritten" in out
    code, out, _ = house(*PLAN, "--detailed-exitcode")
    assert code == 0 and "No change." in out


def test_the_usual_place_is_not_that_of_a_saved_plan(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPA_AT", "http://127.0.0.1:9")
    assert house(*SAVE)[0] == 0
    assert house("apply", "plan.json")[0] == 0
    for words in (("apply", "video", "--rate", RATE), ("apply", "plan.json", "--at", "http://127.0.0.1:9")):
        code, _, err = house(*words)
        assert code == 1 and "127.0.0.1:9 does not answer" in err


def test_equal_plans_are_equal_files(house: House) -> None:
    house(*SAVE)
    first = (house.folder / "plan.json").read_bytes()
    house(*SAVE)
    assert (house.folder / "plan.json").read_bytes() == first


def test_a_stale_plan_is_refused_and_everything_that_moved_is_named(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house(*SAVE)
    edited = house.folder / "profiles" / "video" / "crop.yaml"
    edited.write_text(edited.read_text() + "# measured again\n")
    (house.folder / "profiles" / "video" / "classification.yaml").unlink()
    (house.folder / "profiles" / "video" / "extra.yaml").write_text("new\n")
    text = (house.folder / "video.yaml").read_text().replace("replicas: 1", "replicas: 2", 1)
    (house.folder / "video.yaml").write_text(text)
    monkeypatch.setattr("ipa.__version__", "9.9.9")
    code, _, err = house("apply", "plan.json")
    assert code == 4
    for words in (
        "profiles/video/extra.yaml is new",
        "profiles/video/crop.yaml was changed: sha256 ",
        "profiles/video/classification.yaml is gone",
        "the running configuration was changed: revision sha256:",
        "this is 9.9.9",
        "Plan again with `ipa plan video --rate 30 --at video.yaml --out plan.json`",
    ):
        assert words in err, err
    assert "pipelines/video/pipeline.yaml" not in err
    assert (house.folder / "video.yaml").read_text() == text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "is not a saved plan"),
        ("[1]", "is not a saved plan"),
        ("nothing", "is not JSON"),
        ('{"kind": "SavedPlan"}', "its digest does not match"),
    ],
)
def test_what_is_no_saved_plan_is_refused(house: House, content: str, said: str) -> None:
    (house.folder / "plan.json").write_text(content)
    code, _, err = house("apply", "plan.json")
    assert code == 65 and said in err


def test_a_plan_that_was_edited_is_refused(house: House) -> None:
    house(*SAVE)
    file = house.folder / "plan.json"
    body = house.saved()
    body["configs"][0]["replicas"] += 1
    file.write_text(json.dumps(body))
    code, _, err = house("apply", "plan.json")
    assert code == 65 and "its digest does not match" in err
    # How it is laid out is no matter.
    house(*SAVE)
    file.write_text(json.dumps(house.saved()))
    assert house("apply", "plan.json")[0] == 0


def test_usage(house: House) -> None:
    for words, said in (
        (("plan", "video", "--rate", RATE, "--out", "plan.json"), "need --at"),
        (("plan", "video", "--rate", RATE, "--detailed-exitcode"), "need --at"),
        ((*SAVE, "--sets"), "options that do not apply to a set"),
        (
            ("plan", "video", "--rate", RATE, "--at", "ftp://x", "--out", "p.json"),
            "is neither a service's URL",
        ),
    ):
        code, _, err = house(*words)
        assert code == 64 and said in err, err
    house(*SAVE)
    code, _, err = house("apply", "plan.json", "--rate", "3")
    assert code == 64 and "cannot be given with it" in err
    code, _, err = house(*PLAN[:-2], "--at", "video.yaml", "--out", "no/folder/plan.json")
    assert code == 65 and "cannot be written" in err


def test_an_infeasible_plan_is_not_saved(house: House) -> None:
    file = house.folder / "pipelines" / "video" / "pipeline.yaml"
    file.write_text(file.read_text().replace("latency: 1s", "latency: 20ms"))
    code, out, _ = house(*SAVE, "--detailed-exitcode")
    assert code == 3 and "Feasible with" in out
    assert not (house.folder / "plan.json").exists()


@pytest.fixture
def cluster(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKube]:
    monkeypatch.setenv("IPA_STORE_URL", f"sqlite:///{house.folder / 'ipa.sqlite3'}")
    with FakeKube() as kube:
        document = yaml.safe_load((house.folder / "video.yaml").read_text())
        with kube.store.lock:
            kube.store.create("seldondeployments", "default", document)
        kube.tick(10)
        yield kube


def test_on_a_cluster_the_object_and_its_generation_must_be_the_same(house: House, cluster: FakeKube) -> None:
    at = f"kubernetes:{cluster.kubeconfig(house.folder)}"
    words = ("plan", "video", "--rate", RATE, "--at", at, "--out", "plan.json", "--detailed-exitcode")
    assert house(*words)[0] == 2
    revision = house.saved()["revision"]
    uid, _, generation = revision.rpartition("/")
    assert uid and generation.isdecimal()
    # A label is no other spec, so what was decided on is still there.
    cluster.edit("default", "video", lambda sdep: sdep["metadata"].update(labels={"team": "vision"}))
    assert house(*words)[0] == 2 and house.saved()["revision"] == revision
    cluster.edit("default", "video", lambda sdep: sdep["spec"]["predictors"][0].update(replicas=2))
    cluster.writes.clear()
    code, _, err = house("apply", "plan.json")
    assert code == 4 and "the running configuration was changed: revision " in err
    assert cluster.writes == []


@pytest.fixture
def world(house: House, monkeypatch: pytest.MonkeyPatch) -> FakeWorld:
    made = FakeWorld().play(30)
    monkeypatch.setattr(
        "ipa.clients.http.client_at",
        lambda at, settings=None, **_: HttpClient(at, InProcess(made.services())),
    )
    return made


AT_SERVICE = ("plan", "ocr", "--rate", "3", "--at", "http://127.0.0.1:8080")


def test_at_a_service_its_own_plan_is_saved_with_what_it_has_of_the_pipeline(
    house: House, world: FakeWorld
) -> None:
    code, out, _ = house(*AT_SERVICE, "--out", "plan.json", "--detailed-exitcode")
    assert code == 2 and "Saved plan.json" in out
    assert set(house.saved()["inputs"]) == {"/v1/pipelines/ocr", "/v1/pipelines/ocr/profiles"}
    world.clock.wait(1.0)
    assert house("apply", "plan.json")[0] == 0
    assert house(*AT_SERVICE, "--detailed-exitcode")[0] == 0
    # The loop goes on, and changes what runs.
    before = world.applied_tick
    world.play(30)
    assert world.applied_tick != before
    code, _, err = house("apply", "plan.json")
    assert code == 4 and f"the running configuration was changed: revision {before} then" in err


def test_a_service_takes_no_options_of_the_search(house: House, world: FakeWorld) -> None:
    code, _, err = house(*AT_SERVICE, "--detailed-exitcode", "--solver", "highs", "--no-sets")
    assert code == 64 and "--solver, --sets: a service plans by its own settings" in err
