"""Pipelines, profiles, settings and services found by the name or address a user typed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.clients.base import PipelineClient
    from ipa.clients.http import HttpClient


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


def client_at(at: str, namespace: str | None = None) -> PipelineClient:
    """The client of a service, a cluster or a manifest, as `ipa.clients.http.client_at` finds it."""
    from ipa.clients import http

    return http.client_at(at, namespace=namespace)


def service_at(at: str, what: str) -> HttpClient:
    """The client of a service; UsageError elsewhere, since only a service has `what`."""
    from ipa.clients import http

    return http.service_at(at, what)
