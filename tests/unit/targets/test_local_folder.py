"""The folder of local pipelines belongs to one service at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipa.bootstrap.app import App, build
from ipa.bootstrap.targets import ServeOptions
from ipa.model.errors import ConflictError
from ipa.settings import Settings


def served(folder: Path, store: str) -> App:
    none = folder / "none"
    none.mkdir(exist_ok=True)
    settings = Settings(pipelines_dir=none, profiles_dir=none, store_url=f"sqlite:///{folder / store}")
    return build(settings, ServeOptions(folder=folder / "local"))


def test_a_second_service_in_the_folder_of_another_is_refused(tmp_path: Path) -> None:
    """It would clear the other's metrics and overwrite the settings of its model servers."""
    first = served(tmp_path, "one.sqlite3")
    with pytest.raises(ConflictError, match=r"local is in use by an ipa service \(process") as refused:
        served(tmp_path, "two.sqlite3")
    assert "--folder" in (refused.value.hint or "")
    first.close()
    served(tmp_path, "two.sqlite3").close()
