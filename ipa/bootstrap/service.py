"""The use cases over everything that runs."""

from __future__ import annotations

from ipa.adapters.solvers.planner import PlannerProcesses
from ipa.bootstrap.app import App
from ipa.bootstrap.health import ServiceHealth, StoreCheck
from ipa.bootstrap.replaying import Replayer
from ipa.service.ports import Alone
from ipa.service.service import Service


def service_of(app: App) -> Service:
    """The service of a running application; its planner's processes end with the application."""
    planner = PlannerProcesses()
    app.resources.callback(planner.close)
    leadership = app.leadership or Alone()
    return Service(
        pipelines=app.pipelines,
        registry=app.roster,
        log=app.store,
        controls=app.store,
        records=app.store.records,
        verifier=app.store,
        plans=app.store.plans,
        answers=app.store.answers,
        planner=planner,
        replayer=Replayer(app.store, app.sight.forecaster),
        leadership=leadership,
        health=ServiceHealth(app.store, StoreCheck(app.store.check, app.clock), leadership, app.loops),
        clock=app.clock,
        settings=app.settings,
        endpoints=app.endpoints,
    )
