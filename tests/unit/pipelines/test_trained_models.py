"""Trained models are loaded as they were trained, or not at all."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from ipa.model.errors import InputError, NotFoundError
from pipelines.digits import train
from pipelines.trained import manifest_of, trusted_model, write_models

REMEDY = "Train it anew."
HARMLESS = pickle.dumps({"weights": [1, 2, 3]})


class Canary:
    """A pickle that leaves a file behind where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return os.system, (f"touch {self.path}",)  # type: ignore[return-value]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_models(tmp_path / "models", {"one.joblib": HARMLESS})
    return tmp_path / "models"


def test_what_was_trained_is_what_is_loaded(folder: Path) -> None:
    assert trusted_model(folder / "one.joblib", REMEDY) == HARMLESS
    assert [path.name for path in folder.iterdir()] == ["one.joblib"]
    assert list(json.loads(manifest_of(folder).read_text())) == ["one.joblib"]


@pytest.mark.parametrize("content", [HARMLESS[:-1], HARMLESS + b"x", b"", bytes(10)])
def test_a_changed_file_is_refused_with_the_remedy(folder: Path, content: bytes) -> None:
    (folder / "one.joblib").write_bytes(content)
    with pytest.raises(InputError, match="was changed since it was trained") as error:
        trusted_model(folder / "one.joblib", REMEDY)
    assert error.value.hint == REMEDY


def test_a_file_that_others_may_write_is_refused(folder: Path) -> None:
    for path in (folder / "one.joblib", manifest_of(folder)):
        path.chmod(0o666)
        with pytest.raises(InputError, match="others can write it"):
            trusted_model(folder / "one.joblib", REMEDY)
        path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(folder / "one.joblib", 12345, 12345)
        with pytest.raises(InputError, match="belongs to user 12345"):
            trusted_model(folder / "one.joblib", REMEDY)


def test_what_has_no_digest_or_is_no_file_is_refused(folder: Path) -> None:
    (folder / "two.joblib").write_bytes(HARMLESS)
    with pytest.raises(NotFoundError, match=r"no digest of two\.joblib"):
        trusted_model(folder / "two.joblib", REMEDY)
    os.mkfifo(folder / "pipe.joblib")
    with pytest.raises(InputError, match="is not a file"):
        trusted_model(folder / "pipe.joblib", REMEDY)
    manifest_of(folder).write_text("[" * 3)
    with pytest.raises(InputError, match="is not JSON"):
        trusted_model(folder / "one.joblib", REMEDY)
    manifest_of(folder).unlink()
    with pytest.raises(NotFoundError, match="does not exist"):
        trusted_model(folder / "one.joblib", REMEDY)


def test_no_code_of_a_changed_digits_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def quick(folder: Path) -> None:
        trained.append(folder)
        write_models(
            folder, {"locate-ridge.joblib": train._dumped(SimpleNamespace(size=8)), train.SCORES: b"{}"}
        )

    monkeypatch.setattr(train, "train", quick)
    folder, canary = tmp_path / "digits", tmp_path / "ran"
    assert train.load_model("locate", "ridge", folder).size == 8
    # Models of before there were digests are trained anew, not trusted.
    manifest_of(folder).unlink()
    (folder / "locate-ridge.joblib").write_bytes(pickle.dumps(Canary(canary)))
    assert train.load_model("locate", "ridge", folder).size == 8
    assert len(trained) == 2
    (folder / "locate-ridge.joblib").write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(InputError, match="train"):
        train.load_model("locate", "ridge", folder)
    assert not canary.exists()
    pickle.loads((folder / "locate-ridge.joblib").read_bytes())
    assert canary.exists(), "the canary itself works"
