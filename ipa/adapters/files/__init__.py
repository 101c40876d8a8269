"""Pipelines, profiles and guardrails in YAML files: read with every problem at its line, and written."""

from ipa.adapters.files.guardrails import load_guardrails
from ipa.adapters.files.pipelines import load_pipeline, load_pipelines, pipeline_from_mapping
from ipa.adapters.files.profiles import dump_profile, load_profile, load_profiles
from ipa.adapters.files.written import pipeline_to_mapping

__all__ = [
    "dump_profile",
    "load_guardrails",
    "load_pipeline",
    "load_pipelines",
    "load_profile",
    "load_profiles",
    "pipeline_from_mapping",
    "pipeline_to_mapping",
]
