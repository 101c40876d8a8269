"""The example that comes with the package: a pipeline and its published profiles, for `ipa demo`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ipa.files.pipelines import FILE_NAME, load_pipeline
from ipa.files.profiles import load_profiles
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile

EXAMPLE = "video"


def example_folders() -> tuple[Path, Path]:
    """Its folders of pipelines and of profiles, laid out as a user's are."""
    home = Path(str(resources.files(__package__).joinpath("example")))
    return home / "pipelines", home / "profiles"


def packaged_example() -> tuple[Pipeline, dict[str, StageProfile]]:
    """The pipeline and its profiles by stage."""
    pipelines, profiles = example_folders()
    return load_pipeline(pipelines / EXAMPLE / FILE_NAME), load_profiles(profiles, EXAMPLE)
