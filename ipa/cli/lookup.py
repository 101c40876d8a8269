"""Pipelines, profiles and settings found by the name a user typed."""

from __future__ import annotations

from pathlib import Path

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
    from ipa.files.pipelines import find_pipeline

    settings = Settings.from_env(pipelines_dir=pipelines_dir, profiles_dir=profiles_dir)
    pipeline = find_pipeline(name, settings.pipelines_dir)
    return pipeline, load_profiles(settings.profiles_dir, pipeline.name), settings
