"""The incidents of a pipeline: what went wrong, from when to when, why, and what was done."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.control.audit.incidents import PipelineIncident
from ipa.model.pipeline import Pipeline
from ipa.service.service import Service


@dataclass(frozen=True, slots=True)
class IncidentPage:
    """Incidents, the newest first; one without `ended_at` lasts."""

    incidents: tuple[PipelineIncident, ...]


def incidents(service: Service, pipeline: Pipeline, limit: int) -> IncidentPage:
    """The newest incidents of a pipeline, as far back as decisions are known."""
    return IncidentPage(tuple(service.incidents.of(pipeline.name, service.log)[:limit]))
