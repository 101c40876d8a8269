"""Pipelines, profiles and settings found by the name a user typed."""

from __future__ import annotations

from pathlib import Path

from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.settings import Settings


def load(
    name: str, pipelines_dir: Path | None, profiles_dir: Path | None
) -> tuple[Pipeline, dict[str, StageProfile], Settings]:
    """The pipeline of that name or path, its profiles by stage, and the settings.

    NotFoundError names the pipelines there are.
    """
    from ipa.files import load_profiles

    settings = Settings.from_env(pipelines_dir=pipelines_dir, profiles_dir=profiles_dir)
    pipeline = find_pipeline(name, settings.pipelines_dir)
    return pipeline, load_profiles(settings.profiles_dir, pipeline.name), settings


def find_pipeline(name: str, pipelines_dir: Path) -> Pipeline:
    """The pipeline of that name in the folder, or in the file of that path.

    NotFoundError names the pipelines there are.
    """
    from ipa.files import load_pipeline
    from ipa.files.reading import is_file

    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = pipelines_dir / name / "pipeline.yaml"
        if not is_file(path):
            known = sorted(file.parent.name for file in pipelines_dir.glob("*/pipeline.yaml"))
            raise NotFoundError(
                f"there is no pipeline {name!r} in {pipelines_dir}",
                hint=f"There are: {', '.join(known) or 'none'}",
            )
    return load_pipeline(path)
