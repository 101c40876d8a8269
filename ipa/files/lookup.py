"""Pipelines found by the name that a person typed."""

from __future__ import annotations

from pathlib import Path

from ipa.files.pipelines import load_pipeline
from ipa.files.reading import is_file
from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Pipeline


def find_pipeline(name: str, pipelines_dir: Path) -> Pipeline:
    """The pipeline of that name in the folder, or in the file of that path.

    NotFoundError names the pipelines there are.
    """
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
