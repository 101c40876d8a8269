"""Every setting of the service, once: its name with the unit, its default and the reason for it."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ipa.model.errors import ConfigurationError, Problem

PREFIX = "IPA_"


@dataclass(frozen=True, slots=True)
class Settings:
    """The service's settings. Environment variables of the same name in capitals after IPA_ override them."""

    # Where pipeline.yaml files are: one folder a pipeline.
    pipelines_dir: Path = Path("pipelines")
    # Where measured profiles are: <pipeline>/<stage>.yaml.
    profiles_dir: Path = Path("profiles")
    # SQLAlchemy URL of the store. SQLite needs no server; use PostgreSQL for two replicas of the service.
    store_url: str = "sqlite:///runs/ipa.sqlite3"
    # Only this machine, until authentication is configured.
    host: str = "127.0.0.1"
    # Where the API and the page listen.
    port: int = 8080
    # Plans, explanations and experiments that one client may ask for in a second; more are answered 429.
    api_expensive_rps: float = 400.0
    # So many of them are computed at once: the loops need a core too.
    api_solves: int = 2
    # So many more may wait for that; each holds one of the API's forty threads.
    api_waiting_solves: int = 16
    # Base URL of Prometheus.
    prometheus_url: str = "http://127.0.0.1:9090"
    # A query that takes longer is treated as missing; well below the tick.
    prometheus_timeout_s: float = 2.0
    # The label in which series say their namespace; those without it count too. The Prometheus Operator sets
    # namespace, some scrape configurations kubernetes_namespace; empty where it is not that of the pipeline.
    prometheus_namespace_label: str = "namespace"
    # IPA's adaptation interval.
    tick_s: float = 10.0
    # Between ticks the load is looked at so often, and a tick comes early where more comes than was expected.
    # For never: as long as a tick.
    peek_s: float = 2.0
    # IPA's monitoring window: two minutes of per-second rates.
    window_s: float = 120.0
    # Pod start-up plus one tick: what is decided now must carry the load until the next decision acts. Longer
    # where a profile's readiness time and a tick are.
    horizon_s: float = 20.0
    # What is forecast are means over this long: a queue and an objective's margins absorb shorter bursts.
    smooth_s: float = 5.0
    # The plan is made for this quantile of the forecast.
    forecast_quantile: float = 0.95
    # A trace of the load (requests a line, a line a second, from midnight UTC) to learn forecasts from at
    # start; empty for none. Half a day is enough, a fortnight takes a minute.
    forecast_trace: str = ""
    # Samples older than this do not count as seen: three missed 5 s scrapes.
    stale_after_s: float = 15.0
    # Scale down only after the lower plan was best this many ticks in a row (InfAdapter waits four).
    down_after_ticks: int = 4
    # Plans closer than this to the running one in objective, relative, do not change the world.
    tolerance_ratio: float = 0.01
    # At most so many replicas are added or removed for a stage in one step.
    max_step_replicas: int = 8
    # A change not ready by then is taken back.
    rollout_deadline_s: float = 300.0
    # A variant whose rollout failed is left alone this long; each further failure doubles it.
    quarantine_s: float = 300.0
    # A stage offered more than this part of what its ready replicas carry is crowded.
    max_utilisation_ratio: float = 1.0
    # Crowded so many ticks in a row, a stage gets replicas whatever the plan says.
    crowded_ticks: int = 3
    # For so long after that nothing is taken away.
    crowded_hold_s: float = 300.0
    # Wall time the solver may take; a plan after the next tick is of no use.
    solver_deadline_s: float = 5.0
    # auto, gurobi, highs or exact; auto says which it took and why.
    solver: str = "auto"
    # Kubernetes or this machine.
    target: str = "local"
    # A kubeconfig file; empty for the service account of the pod.
    kubeconfig: str = ""
    # What this install of the service calls itself. It claims each SeldonDeployment with its first write, and
    # leaves those of other installs alone. Replicas of one install share the name.
    install: str = "ipa"
    # On Kubernetes, what is written: the cluster, or (gitops) only what a GitOps tool takes from.
    actuation: str = "cluster"
    # For gitops: the folder of the manifests, or the git repository (best a clone of its own) they are in.
    gitops_dir: str = ""
    # A pipeline's manifest below it.
    gitops_path: str = "{pipeline}.yaml"
    # The branch that commits go to; empty for a folder whose files are just rewritten.
    gitops_branch: str = ""
    # Where they are pushed to; empty for nowhere.
    gitops_remote: str = ""
    # In whose name.
    gitops_author: str = "ipa-serving <ipa-serving@localhost>"
    # Every call of git ends by then.
    gitops_timeout_s: float = 20.0
    # Every call to the API server ends by then.
    kube_timeout_s: float = 10.0
    # Whether replicas elect the one that writes: auto (in a pod of a cluster only), on or off.
    leader_election: str = "auto"
    # The Lease that they share; empty for <install>-serving.
    lease_name: str = ""
    # Where it is; empty for the namespace of the pod.
    lease_namespace: str = ""
    # What this replica is called there; empty for its host's (that is, its pod's) name. Random digits follow.
    lease_identity: str = ""
    # Another takes over when the leader has not renewed for so long; whole seconds. client-go's default.
    lease_s: float = 15.0
    # A leader that could not renew for so long stops writing: well before another may begin.
    lease_renew_deadline_s: float = 10.0
    # How often the Lease is looked at or renewed.
    lease_retry_s: float = 2.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """The settings: `overrides` over environment over defaults.

        ConfigurationError lists every IPA_ variable that is unknown (with the nearest name) or ill-typed.
        """
        env = os.environ if environ is None else environ
        known = {field.name: field for field in fields(cls)}
        defaults = cls()
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, text in env.items():
            if not key.startswith(PREFIX) or key in IGNORED:
                continue
            name = key.removeprefix(PREFIX).lower()
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
                problems.append(Problem(f"unknown setting {key}{hint}"))
                continue
            wanted = Path if isinstance(getattr(defaults, name), Path) else type(getattr(defaults, name))
            try:
                values[name] = wanted(text)
            except ValueError:
                problems.append(Problem(f"{key}={text!r} is not {KINDS[wanted]}"))
                continue
            fault = _fault(name, values[name])
            if fault:
                problems.append(Problem(f"{key}={text!r} {fault}"))
        if problems:
            raise ConfigurationError("the environment has settings that cannot be used", problems=problems)
        values.update({name: value for name, value in overrides.items() if value is not None})
        return cls(**values)


KINDS = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
CHOICES = {"actuation": ("cluster", "gitops"), "leader_election": ("auto", "on", "off")}


def _fault(name: str, value: Any) -> str:
    """What is wrong with the value, empty for nothing."""
    if name == "prometheus_url":
        url = urlsplit(value)
        return "" if url.scheme in ("http", "https") and url.hostname else "is no http or https URL"
    if name == "install":
        return "" if value.strip() else "is empty"
    if isinstance(value, str):
        choices = CHOICES.get(name, (value,))
        return "" if value in choices else f"is none of {', '.join(choices)}"
    return _number_fault(name, value)


def _number_fault(name: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return ""
    if not math.isfinite(value):
        return "is not finite"
    if name == "tolerance_ratio":
        return "" if value >= 0 else "is below 0"
    if value <= 0:
        return "is not above 0"
    return "is not below 1" if name == "forecast_quantile" and value >= 1 else ""


# Read by the tests and by make, not by the service.
IGNORED = frozenset(
    {
        "IPA_TEST_KUBECONFIG",
        "IPA_SHARED_DATA",
        "IPA_TEST_POSTGRES_URL",
        "IPA_SCREENSHOTS",
        "IPA_TEST_NAMESPACE",
        "IPA_TEST_IMAGE",
        "IPA_TEST_SPLIT_IMAGE",
        "IPA_TEST_TIMEOUT_S",
    }
)
