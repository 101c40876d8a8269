"""Routes over all pipelines: their usage, their forecasts, and the alerts."""

from __future__ import annotations

from fastapi import APIRouter

from ipa.api.limits import JsonRoute
from ipa.api.queries import Named, Using
from ipa.service import alerts, fleet
from ipa.service.alerts import AlertsView
from ipa.service.fleet import FleetView, ForecastView

router = APIRouter(prefix="/v1", route_class=JsonRoute)


@router.get("/pipelines/{pipeline}/forecast", tags=["forecasts"])
def get_forecast(pipeline: Named, service: Using) -> ForecastView:
    """Return the forecast of the load, the forecaster that made it, and its recent errors."""
    return fleet.forecast(service, pipeline)


@router.get("/fleet", tags=["fleet"])
def get_fleet(service: Using) -> FleetView:
    """Return the usage of all pipelines, their bounds, and the share of each."""
    return fleet.fleet_use(service)


@router.get("/alerts", tags=["health"])
def list_alerts(service: Using) -> AlertsView:
    """Return the raised alerts: those of Prometheus, or what the service itself knows of their rules."""
    return alerts.alerts(service)
