"""Every setting of the service, once: its name with the unit, its default and the reason for it."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ipa.model.errors import ConfigurationError, Problem, UsageError

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
    # Days for which every decision is kept, holds included. Longer keeps more to replay and takes more room:
    # about 20 MB a month for each pipeline.
    keep_decisions_days: float = 30.0
    # Days for which changes, what became of them and people's acts are kept; 0 keeps them for ever.
    keep_changes_days: float = 0.0
    # Days for which the hourly series of each pipeline is kept.
    keep_series_days: float = 365.0
    # Megabytes that the decisions of those days may take. Above it the oldest holds are removed before their
    # age; 0 sets no bound. Raise it with the disk: 100 pipelines at a tick of 10 s fill it in a month.
    keep_decisions_mb: float = 1900.0
    # A PEM file with the Ed25519 key that checkpoints of the record are signed with. Empty: for SQLite a file
    # beside the store, made when it is first needed; for PostgreSQL none, and checkpoints are not signed.
    store_key_file: str = ""
    # Only this machine, until authentication is configured.
    host: str = "127.0.0.1"
    # Where the API and the page listen.
    port: int = 8080
    # Plans, explanations and experiments that one client may ask for in a second; more are answered 429.
    api_expensive_rps: float = 400.0
    # Requests a second that read, of one client. Beyond it 429.
    api_reads_rps: float = 1000.0
    # Requests a second that change something, of one client, half a minute's worth of them at once. The
    # record keeps an entry of each.
    api_changes_rps: float = 10.0
    # So many of them are computed at once: the loops need a core too.
    api_solves: int = 2
    # So many more may wait for that: about a twentieth of a second. Who comes beyond is refused at once.
    api_waiting_solves: int = 16
    # Open connections to the API at once. At the bound the connection that has waited longest for its client
    # to send is closed; lower it if the process may open few files (`ulimit -n`), raise it for many open
    # pages.
    api_connections: int = 1000
    # The same for one address. Raise it if all clients come through one proxy.
    api_address_connections: int = 250
    # Seconds for the body of a request to arrive; a later one is answered 408. Raise it for slow links.
    api_body_s: float = 6.0
    # Megabytes that the bodies of all requests may take at once. Beyond, the largest that is still incomplete
    # is answered 503.
    api_bodies_mb: float = 16.0
    # Megabytes that the process of an experiment may take, beside those of the service: one that takes more,
    # since requests pile up in it, is ended and says so. One of 20 minutes takes about 200.
    experiment_memory_mb: float = 512.0
    # Pipelines that may be given over the API into one namespace: each has a loop, and its record stays.
    api_pipelines: int = 500
    # Names that pipelines given over the API may have: any that is free; or (prefixed), for callers that may
    # not define in every namespace, only their namespace or what begins with it and a hyphen. Then a refused
    # name tells nobody what other namespaces have.
    api_names: str = "any"
    # How it is known who asks: keys (`ipa key`), oidc, kubernetes, or several with commas between. Empty:
    # nobody has to say, and only this machine is listened to.
    auth: str = ""
    # Names that the service is called by, with commas between, beside this machine's and its own address.
    # Empty: any where it listens to others.
    hosts: str = ""
    # Whether /metrics is open to all who reach the port, or wants a token of a viewer of every namespace.
    metrics_access: str = "open"
    # For oidc: the issuer (iss) whose tokens count.
    oidc_issuer: str = ""
    # Whom they have to be made for (aud).
    oidc_audience: str = ""
    # Where the issuer's public keys are, a JWK set: a file, or an https address, which may not redirect.
    oidc_jwks: str = ""
    # The claim that says who it is, as records name them.
    oidc_name_claim: str = "sub"
    # The claim that says what they are: a list, or words.
    oidc_roles_claim: str = "groups"
    # What its values grant: platform=operator,vision-team=owner:vision,everyone=viewer:*
    oidc_roles: str = ""
    # For kubernetes: the audience that tokens have to be made for; empty for that of the API server.
    kube_audience: str = ""
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
    # A forecast that takes longer is that of the last rate and its noise; well below the tick.
    forecast_deadline_s: float = 1.0
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
    # Whether plans count on variants as they are seen where batches take longer than their profiles say, by a
    # tenth and more. Needs our queues' metrics: the local target or shape split.
    correct_profiles: bool = True
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
    # Where what is decided and done is told, as signed CloudEvents; http or https, empty for nowhere.
    webhook_url: str = ""
    # The secret that they are signed with: whsec_ and the base64 of 24 to 64 bytes.
    webhook_secret: str = field(default="", repr=False)
    # Or a file that holds it, as a Secret is mounted.
    webhook_secret_file: str = ""
    # public, or private where the receiver is inside a house or a cluster. Link-local addresses and those of
    # clouds' metadata are never connected to.
    webhook_networks: str = "public"
    # changes (of holds only the first of a reason in a row), or all.
    webhook_events: str = "changes"
    # So many may wait while the receiver does not answer; then the oldest are dropped.
    webhook_queue: int = 1000
    # An attempt ends by then.
    webhook_timeout_s: float = 10.0

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """The settings: `overrides` over environment over defaults.

        ConfigurationError lists every IPA_ variable that is unknown (with the nearest name), ill-typed or out
        of range; UsageError every override that is, as the option of its name.
        """
        env = os.environ if environ is None else environ
        known = {each.name: each for each in fields(cls)}
        defaults = cls()
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, text in env.items():
            if not key.startswith(PREFIX) or key in IGNORED or key.startswith(IGNORED_PREFIXES):
                continue
            name = key.removeprefix(PREFIX).lower()
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
                problems.append(Problem(f"unknown setting {key}{hint}"))
                continue
            wanted = Path if isinstance(getattr(defaults, name), Path) else type(getattr(defaults, name))
            try:
                values[name] = _flag(text) if wanted is bool else wanted(text)
            except ValueError:
                problems.append(Problem(f"{key}={text!r} is not {KINDS[wanted]}"))
                continue
            fault = _fault(name, values[name])
            if fault:
                problems.append(Problem(f"{key}={text!r} {fault}"))
        if problems:
            raise ConfigurationError("the environment has settings that cannot be used", problems=problems)
        given = {name: value for name, value in overrides.items() if value is not None}
        faults = [
            Problem(f"--{name.replace('_', '-')} {value!r} {fault}")
            for name, value in given.items()
            if (fault := _fault(name, value))
        ]
        if faults:
            raise UsageError("options that cannot be used", problems=faults)
        values.update(given)
        return cls(**values)


KINDS = {bool: "on or off", int: "a whole number", float: "a number", str: "text", Path: "a path"}
FLAGS = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
CHOICES = {
    "actuation": ("cluster", "gitops"),
    "leader_election": ("auto", "on", "off"),
    "webhook_networks": ("public", "private"),
    "webhook_events": ("changes", "all"),
    "metrics_access": ("open", "token"),
    "api_names": ("any", "prefixed"),
}
# Who can say who asks.
AUTHENTICATORS = ("keys", "oidc", "kubernetes")


def words(value: str) -> tuple[str, ...]:
    """The words of a setting that lists some with commas between."""
    return tuple(filter(None, (word.strip() for word in value.split(","))))


def _flag(text: str) -> bool:
    """Whether it is on; ValueError where it is neither on nor off."""
    if text.strip().lower() not in FLAGS:
        raise ValueError(text)
    return FLAGS[text.strip().lower()]


def _fault(name: str, value: Any) -> str:
    """What is wrong with the value, empty for nothing."""
    if name == "prometheus_url":
        url = urlsplit(value)
        return "" if url.scheme in ("http", "https") and url.hostname else "is no http or https URL"
    if name == "install":
        return "" if value.strip() else "is empty"
    if name == "auth":
        unknown = [word for word in words(value) if word not in AUTHENTICATORS]
        return f"names {', '.join(unknown)}, which is none of {', '.join(AUTHENTICATORS)}" if unknown else ""
    if isinstance(value, str):
        choices = CHOICES.get(name, (value,))
        return "" if value in choices else f"is none of {', '.join(choices)}"
    return _number_fault(name, value)


def _number_fault(name: str, value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (name in MAY_BE_ZERO and value == 0):
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return "is not finite"
    least, most = next(found for suffix, found in RANGES.items() if name.endswith(suffix))
    if value <= 0:
        return "is below 0" if name in MAY_BE_ZERO else "is not above 0"
    if name == "forecast_quantile" and value >= 1:
        return "is not below 1"
    if value < least:
        return f"is below {least:g}"
    return f"is above {most:g}" if value > most else ""


# The least and the most of the numbers whose names end so. Intervals of a microsecond would spin; those of
# years, and counts of billions, overflow clocks and memory.
RANGES: Mapping[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "_s": (0.001, 31 * 86_400),
    "_days": (0.01, 36_500),
    "_mb": (1, 1e7),
    "_rps": (1e-6, 1e9),
    "_ratio": (1e-9, 1e6),
    "forecast_quantile": (1e-9, 1),
    "": (1, 1e6),
}
# Port 0 is any that is free; 0 days and 0 MB keep all.
MAY_BE_ZERO = frozenset({"port", "tolerance_ratio", "keep_changes_days", "keep_decisions_mb"})


# Not read by the service: by its clients (where it is, the token), by the tests and by make.
IGNORED = frozenset({"IPA_AT", "IPA_TOKEN", "IPA_HOSTILE_VALUES", "IPA_SHARED_DATA", "IPA_SCREENSHOTS"})
# Prefixes of those that the tests read.
IGNORED_PREFIXES = ("IPA_FAULT_", "IPA_TEST_")
