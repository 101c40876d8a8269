"""The settings of the service: names with their units, defaults, and when to change them."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ipa.forecast.registry import FORECASTERS
from ipa.model.errors import ConfigurationError, PluginError, Problem, UsageError
from ipa.model.masking import HIDDEN, mask_url
from ipa.optimize.registry import SOLVERS

PREFIX = "IPA_"


class SettingSource(StrEnum):
    """The place that a setting's value comes from, the weakest first."""

    DEFAULT = "default"
    ENVIRONMENT = "environment"
    OPTION = "option"


@dataclass(frozen=True, slots=True)
class Settings:
    """The service's settings: from options, variables (IPA_ and the name in capitals), or these defaults."""

    # Folder of pipeline.yaml files, one folder a pipeline.
    pipelines_dir: Path = Path("pipelines")
    # Folder of measured profiles, <pipeline>/<stage>.yaml.
    profiles_dir: Path = Path("profiles")
    # SQLAlchemy URL of the store. SQLite needs no server; use PostgreSQL for two replicas of the service.
    store_url: str = "sqlite:///runs/ipa.sqlite3"
    # Retention of decisions, holds included, in days. Raise it to replay further back, at about 60 MB a month
    # for each pipeline.
    keep_decisions_days: float = 30.0
    # Retention of changes, their outcomes and operators' actions, in days. 0 keeps them for ever.
    keep_changes_days: float = 0.0
    # Upper bound on the size of kept decisions, in MB; above it the oldest holds are removed before their
    # age. 0 sets no bound. Raise it with the disk: 30 pipelines at a tick of 10 s fill the default in a
    # month.
    keep_decisions_mb: float = 1700.0
    # PEM file with the Ed25519 key that signs checkpoints of the record. Empty: SQLite makes a key file
    # beside the store when it first needs one; PostgreSQL leaves checkpoints unsigned.
    store_key_file: str = ""
    # Address that the API and the page listen on. Only this machine, until authentication is configured.
    host: str = "127.0.0.1"
    # Port that the API and the page listen on. 0 takes any free port.
    port: int = 8080
    # Port of KEDA's external scaler, which shows desired replicas as an open /metrics does. 0 means none.
    keda_port: int = 0
    # Rate limit of one client for plans and explanations, in requests a second. More are answered 429.
    api_expensive_rps: float = 400.0
    # Rate limit of one client for reads, in requests a second. More are answered 429.
    api_reads_rps: float = 1000.0
    # Rate limit of one client for changes, in requests a second; half a minute's worth may come at once. The
    # record keeps an entry of each change.
    api_changes_rps: float = 10.0
    # Plans computed at the same time. Keep it below the number of cores, since the loops need one too.
    api_solves: int = 2
    # Computations that may wait for a free slot, about a twentieth of a second of work. More are refused at
    # once.
    api_waiting_solves: int = 16
    # Open connections to the API. At the bound, the connection that has waited longest for its client to send
    # is closed. Lower it if the process may open few files (`ulimit -n`), raise it for many open pages.
    api_connections: int = 1000
    # Open connections to the API from one address. Raise it if all clients come through one proxy.
    api_address_connections: int = 250
    # Time for the body of a request to arrive, in seconds; later ones are answered 408. Raise it for slow
    # links.
    api_body_s: float = 6.0
    # Memory for the bodies of all requests together, in MB. Beyond it, the largest incomplete request is
    # answered 503.
    api_bodies_mb: float = 16.0
    # Pipelines that may be created over the API in one namespace. Each has a loop, and its record is kept.
    api_pipelines: int = 500
    # Names allowed for pipelines created over the API. any: every free name; prefixed: callers without rights
    # in every namespace may use only their namespace's name, or names that begin with it and a hyphen, so a
    # refused name does not reveal pipelines of other namespaces.
    api_names: str = "any"
    # Authentication methods, comma-separated: keys (`ipa key`), kubernetes. Empty disables authentication
    # and restricts the service to loopback.
    auth: str = ""
    # Host names that the service is called by, comma-separated, beside this machine's and its own address.
    # Empty allows any name if the service listens beyond loopback.
    hosts: str = ""
    # Access to /metrics: open to all who reach the port, or token for viewers of every namespace.
    metrics_access: str = "open"
    # Audience of accepted tokens, for kubernetes. Empty means the API server's.
    kube_audience: str = ""
    # Base URL of Prometheus.
    prometheus_url: str = "http://127.0.0.1:9090"
    # Time limit of a query, in seconds; a slower one counts as missing. Keep it well below the tick.
    prometheus_timeout_s: float = 2.0
    # Bearer token for Prometheus, or with IPA_PROMETHEUS_USER a password. Empty sends none.
    prometheus_token: str = field(default="", repr=False)
    # File that holds the token instead, as a Secret or a service account's token is mounted. It is read for
    # each query, so a renewed token counts at once.
    prometheus_token_file: str = ""
    # User of basic authentication, whose password the token is. Empty sends a bearer token.
    prometheus_user: str = ""
    # PEM file of the authorities that sign the certificate of Prometheus. Empty trusts the public ones.
    prometheus_ca_file: str = ""
    # PEM file of the service's certificate, if Prometheus asks its clients for one.
    prometheus_cert_file: str = ""
    # PEM file of that certificate's key. Empty if it is in the same file.
    prometheus_key_file: str = ""
    # Tenant whose series are read (header X-Scope-OrgID), for Mimir or Cortex. Empty sends none.
    prometheus_tenant: str = ""
    # Label that holds a series' namespace; series without it count too. The Prometheus Operator sets
    # namespace, some scrape configurations kubernetes_namespace. Empty if the label does not hold the
    # pipeline's namespace.
    prometheus_namespace_label: str = "namespace"
    # Time between two decisions, in seconds: IPA's adaptation interval.
    tick_s: float = 10.0
    # Time between two looks at the load within a tick, in seconds. A tick starts early if the load rises
    # beyond what runs. The value of IPA_TICK_S disables early ticks.
    peek_s: float = 2.0
    # Length of the load history, in seconds: forecasts are made from it, and forecasters are weighted by
    # their errors over it.
    window_s: float = 600.0
    # Forecast horizon, in seconds: pod start-up plus one tick, since a decision must carry the load until the
    # next one acts. It is longer if the readiness time in a profile plus the tick is.
    horizon_s: float = 20.0
    # Averaging time of forecast rates, in seconds. Queues and an objective's margins absorb shorter bursts.
    smooth_s: float = 5.0
    # Quantile of the forecast that plans are made for, of a pipeline whose SLA has the percentile 99. Where
    # five times as many requests may be late, five times as many peaks may exceed it. With a trace it is the
    # same for all. Raise it to plan for higher peaks.
    forecast_quantile: float = 0.95
    # Time limit of a forecast, in seconds; after it the last rate and its noise are used. Keep it well below
    # the tick.
    forecast_deadline_s: float = 1.0
    # Forecaster: ladder, one of its rungs (level, window, last), a plug-in by its name, or
    # module:attribute. When it cannot answer, the last value and its noise are used.
    forecaster: str = "ladder"
    # Load trace to train forecasters from at start: a file, with options as FILE?scale=2&from=1h. Empty for
    # none. Half a day is enough; a fortnight takes a minute.
    forecast_trace: str = ""
    # Age from which a sample counts as missing, in seconds: three missed scrapes of 5 s.
    stale_after_s: float = 15.0
    # Price of a change: what the running resources cost in this time, in seconds, five times that on
    # Kubernetes, twice that if it removes capacity. Another plan must be worth more, in the next half minute
    # or since the last change.
    change_price_s: float = 12.0
    # Replicas added or removed for a stage in one step, at most.
    max_step_replicas: int = 8
    # Time for a change to become ready, in seconds; it is rolled back after that. Raise it for slow images or
    # models.
    rollout_deadline_s: float = 300.0
    # Time for which a variant is not planned after its rollout failed, in seconds. Each further failure
    # doubles it.
    quarantine_s: float = 300.0
    # Learn from what is observed. Profiles are corrected by service times once batches take at least a tenth
    # longer than profiled; our queues measure these, and in shape single our runtime in the model servers.
    # Plans are made for more than the forecast while too many requests are late, and for less while hardly
    # any are.
    correct_profiles: bool = True
    # Time limit of the solver, in seconds. Keep it below the tick: a later plan is of no use.
    solver_deadline_s: float = 5.0
    # Solver: auto, gurobi, highs or exact. auto reports which one it took and why.
    solver: str = "auto"
    # Target that runs the pipelines: kubernetes, deployments, scale (advice), local, or a plug-in.
    target: str = "local"
    # Port of the router of a local pipeline, which takes its requests. Of several pipelines each has the next
    # port, in the order of their names, unless its file gives one (`local: {port: 9000}`). 0 takes the port
    # of the last run, or any free one.
    router_port: int = 0
    # Kubeconfig file. Empty uses the pod's service account, and outside of a pod what kubectl uses.
    kubeconfig: str = ""
    # URL of the gateway before the pipelines of a cluster, for smoke requests. Empty sends each to the
    # pipeline's Service, which only a client within the cluster's network reaches.
    gateway_url: str = ""
    # Python interpreter that has the client package of the target, for `ipa probe --transport grpc`. Empty
    # means the service's own; name another if that package wants older versions of what the service has.
    client_python: str = ""
    # Name of this install of the service. An install claims each workload on a cluster with its first write
    # and leaves those of other installs alone; its replicas share the name.
    install: str = "ipa"
    # Time limit of each call to the API server, in seconds.
    kube_timeout_s: float = 10.0
    # Destination of writes on Kubernetes: cluster, or gitops for only the files that a GitOps tool deploys.
    actuation: str = "cluster"
    # Git repository of the manifests for gitops, best a clone of its own.
    gitops_dir: str = ""
    # Path of a pipeline's manifest below it.
    gitops_path: str = "{pipeline}.yaml"
    # Branch that commits go to.
    gitops_branch: str = "main"
    # Name of the remote that commits are pushed to, as origin. Empty does not push.
    gitops_remote: str = ""
    # Author of the commits.
    gitops_author: str = "ipa-serving <ipa-serving@localhost>"
    # Time limit of each git command, in seconds.
    gitops_timeout_s: float = 20.0
    # Leader election among replicas: auto (only in a pod of a cluster), on or off.
    leader_election: str = "auto"
    # Name of the shared Lease. Empty means <install>-serving.
    lease_name: str = ""
    # Namespace of the Lease. Empty means the pod's.
    lease_namespace: str = ""
    # Name of this replica in the Lease; random digits are appended. Empty means the host's, which is the
    # pod's name.
    lease_identity: str = ""
    # Time without renewal after which another replica takes over, in whole seconds. client-go's default.
    lease_s: float = 15.0
    # Time without renewal after which a leader stops writing, in seconds. Keep it well below lease_s.
    lease_renew_deadline_s: float = 10.0
    # Time between two reads or renewals of the Lease, in seconds.
    lease_retry_s: float = 2.0

    # The source of each value that is not the default.
    origins: Mapping[str, SettingSource] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Return the settings: `overrides` over the environment over the defaults.

        ConfigurationError lists every variable of the environment that is unknown (with the nearest name),
        ill-typed or out of range; UsageError every such override, as the option of its name.
        """
        values, faults = _from_variables(os.environ if environ is None else environ)
        if faults:
            raise ConfigurationError("the environment has settings that cannot be used", problems=faults)
        given = {name: value for name, value in overrides.items() if value is not None}
        faults = [
            Problem(f"--{name.replace('_', '-')} {shown_setting(name, value)!r} {fault}")
            for name, value in given.items()
            if (fault := setting_fault(name, value))
        ]
        if faults:
            raise UsageError("options that cannot be used", problems=faults)
        values |= {name: (value, SettingSource.OPTION) for name, value in given.items()}
        return cls(
            **{name: value for name, (value, _) in values.items()},
            origins={name: origin for name, (_, origin) in values.items()},
        )


SETTINGS = tuple(each for each in fields(Settings) if each.name != "origins")
# Never shown.
SECRETS = frozenset(each.name for each in SETTINGS if not each.repr)
# URLs whose path is hidden too: servers of many tenants often have a secret there.
SECRET_PATHS = frozenset({"prometheus_url", "gateway_url"})
# The first setting of each group; those that follow it in the class belong to it too.
_GROUP_STARTS = {
    "pipelines_dir": "files",
    "store_url": "store",
    "host": "api",
    "auth": "access",
    "prometheus_url": "prometheus",
    "tick_s": "loop",
    "horizon_s": "forecast",
    "stale_after_s": "control",
    "solver_deadline_s": "solver",
    "target": "target",
    "actuation": "gitops",
    "leader_election": "lease",
}


def _groups() -> Mapping[str, list[str]]:
    groups: dict[str, list[str]] = {}
    group = ""
    for each in SETTINGS:
        group = _GROUP_STARTS.get(each.name, group)
        groups.setdefault(group, []).append(each.name)
    return groups


# The names of settings by group.
GROUPS = _groups()


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


_Values = dict[str, tuple[Any, SettingSource]]


def _from_variables(env: Mapping[str, str]) -> tuple[_Values, list[Problem]]:
    known = {each.name: each for each in SETTINGS}
    defaults = Settings()
    values: _Values = {}
    problems: list[Problem] = []
    for key, text in env.items():
        if not key.startswith(PREFIX) or key in IGNORED or key.startswith(IGNORED_PREFIXES):
            continue
        name = key.removeprefix(PREFIX).lower()
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {variable_of(near[0])}?" if near else ""
            problems.append(Problem(f"unknown setting {key}{hint}"))
            continue
        wanted = Path if isinstance(getattr(defaults, name), Path) else type(getattr(defaults, name))
        try:
            value = FLAGS[text.strip().lower()] if wanted is bool else wanted(text)
        except (KeyError, ValueError):
            problems.append(Problem(f"{key}={shown_setting(name, text)!r} is not {KINDS[wanted]}"))
            continue
        fault = setting_fault(name, value)
        if fault:
            problems.append(Problem(f"{key}={shown_setting(name, text)!r} {fault}"))
        values[name] = (value, SettingSource.ENVIRONMENT)
    return values, problems


KINDS = {bool: "on or off", int: "a whole number", float: "a number", str: "text", Path: "a path"}
FLAGS = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
CHOICES = {
    "solver": SOLVERS,
    "actuation": ("cluster", "gitops"),
    "leader_election": ("auto", "on", "off"),
    "metrics_access": ("open", "token"),
    "api_names": ("any", "prefixed"),
}
# The remedy for a URL with a credential.
CREDENTIALS = {
    "prometheus_url": "use IPA_PROMETHEUS_USER and IPA_PROMETHEUS_TOKEN_FILE",
    "gateway_url": "`ipa url` would print it: leave it out, and give it to `ipa probe --gateway` if needed",
}
# Authentication methods.
AUTHENTICATORS = ("keys", "kubernetes")


def shown_setting(name: str, value: Any) -> Any:
    """The value of a setting for errors and answers, secrets masked."""
    if name in SECRETS:
        return HIDDEN if value else ""
    return mask_url(value, path=name in SECRET_PATHS) if isinstance(value, str) else value


def words(value: str) -> tuple[str, ...]:
    """The words of a comma-separated setting."""
    return tuple(filter(None, (word.strip() for word in value.split(","))))


def setting_fault(name: str, value: Any) -> str:
    """The reason why the value is invalid, empty if it is valid."""
    if name == "prometheus_url" or (name == "gateway_url" and value):
        return _url_fault(name, value)
    if name == "install":
        return "" if value.strip() else "is empty"
    if name == "auth":
        unknown = [word for word in words(value) if word not in AUTHENTICATORS]
        return f"names {', '.join(unknown)}, which is none of {', '.join(AUTHENTICATORS)}" if unknown else ""
    if name == "forecaster":
        return _forecaster_fault(value)
    if isinstance(value, str):
        choices = CHOICES.get(name, (value,))
        return "" if value in choices else f"is none of {', '.join(choices)}"
    return _number_fault(name, value)


def _url_fault(name: str, value: str) -> str:
    """The reason why the value is not a URL without credentials, which the service may pass on."""
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.netloc:
        return "is not an http or https URL"
    # A path is appended.
    if "@" in value or url.fragment or url.query:
        return f"must not contain a user, a password, a query or a fragment; {CREDENTIALS[name]}"
    return ""


def _forecaster_fault(value: str) -> str:
    """The reason why there is no such forecaster; the environment may name code to load."""
    try:
        FORECASTERS.admit(value)
    except UsageError as error:
        return f"is not the name of a forecaster. {error.hint}"
    except PluginError as error:
        return f"cannot be used: {error.message}"
    return ""


def _number_fault(name: str, value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (name in MAY_BE_ZERO and value == 0):
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return "is not finite"
    least, most = next(bounds for suffix, bounds in RANGES.items() if name.endswith(suffix))
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
MAY_BE_ZERO = frozenset(
    {"port", "keda_port", "router_port", "change_price_s", "keep_changes_days", "keep_decisions_mb"}
)


# Read by clients (the service's address, the token), by the tests and by make, not by the service.
IGNORED = frozenset(
    {
        *("IPA_AT", "IPA_TOKEN", "IPA_HOSTILE_VALUES", "IPA_SHARED_DATA", "IPA_SCREENSHOTS"),
        "IPA_WRITE_TABLES",
        # Those of deploy/ci, which GitLab puts into the environment of its jobs.
        *("IPA_REPOSITORY", "IPA_COMMIT", "IPA_REVIEW_TOKEN"),
    }
)
# Prefixes of variables that the tests read.
IGNORED_PREFIXES = ("IPA_FAULT_", "IPA_TEST_")
