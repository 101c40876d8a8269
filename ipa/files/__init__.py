"""Pipelines and profiles in YAML files: read with every problem at its line, and written."""

from ipa.files.document import Document, parse
from ipa.files.pipelines import (
    dump_pipeline,
    load_pipeline,
    load_pipelines,
    pipeline_from_mapping,
    pipeline_in,
    pipeline_to_mapping,
)
from ipa.files.profiles import dump_profile, load_profile, load_profiles, profile_in

__all__ = [
    "Document",
    "dump_pipeline",
    "dump_profile",
    "load_pipeline",
    "load_pipelines",
    "load_profile",
    "load_profiles",
    "parse",
    "pipeline_from_mapping",
    "pipeline_in",
    "pipeline_to_mapping",
    "profile_in",
]
