"""The alerts. Each has a section of its name in docs/how-to/alerts.md."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.control.audit.reason_log import runbook_of
from ipa.metering import table
from tools.monitoring.rules import BY, burning, exceeded, held, share

CRITICAL, WARNING = "critical", "warning"
SLA, LATENCY = table.SLA.name, table.LATENCY.name
HERE = "{{ $labels.pipeline }}"


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert: critical wakes somebody, a warning is looked at on the next working day."""

    name: str
    expr: str
    lasting: str
    severity: str
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        """The path of its remedy in this repository: it has no address of its own."""
        return runbook_of(self.name)


def accuracy(figure: str) -> str:
    """That figure of the measured accuracy, by variant."""
    return f'max by ({BY}, stage, variant) ({table.MEASURED_ACCURACY.name}{{figure="{figure}"}})'


REQUESTS = (
    Alert(
        "IpaSloBurnFast",
        burning("1h", "5m", 14.4),
        "2m",
        CRITICAL,
        f"{HERE} misses its SLA so often that a month's budget is gone in two days",
        "{{ $value | humanizePercentage }} of the requests of the last hour failed, were dropped or "
        "took longer than the SLA.",
    ),
    Alert(
        "IpaSloBurnSlow",
        burning("6h", "30m", 6),
        "15m",
        WARNING,
        f"{HERE} misses its SLA so often that a month's budget is gone in five days",
        "{{ $value | humanizePercentage }} of the requests of the last six hours failed, were dropped "
        "or took longer than the SLA.",
    ),
    Alert(
        "IpaLatencyAboveSla",
        f"max by ({BY}) ({LATENCY}) > on ({BY}) max by ({BY}) ({SLA})",
        "5m",
        WARNING,
        f"{HERE} is above its SLA",
        "Latency at the SLA's percentile has been {{ $value | humanizeDuration }} for five minutes, "
        "above the SLA.",
    ),
    Alert(
        "IpaReplicasNotReady",
        f"max by ({BY}, stage) ({table.READY_REPLICAS.name}) "
        f"< on ({BY}, stage) max by ({BY}, stage) ({table.REPLICAS.name})",
        "10m",
        WARNING,
        f"{HERE}: replicas of {{{{ $labels.stage }}}} do not become ready",
        "Only {{ $value }} replicas of {{ $labels.stage }} answer, fewer than are wanted, for ten minutes.",
    ),
    Alert(
        "IpaProfileSlow",
        f"max by ({BY}, stage, variant) ({table.SLOWDOWN.name}) > 1.25",
        "10m",
        WARNING,
        f"{HERE}: {{{{ $labels.stage }}}}={{{{ $labels.variant }}}} takes longer than its profile says",
        "Batches take {{ $value | humanize }} times what was measured. Plans go by that, and are dearer.",
    ),
    Alert(
        "IpaAccuracyOff",
        f"{accuracy('profile')} > {accuracy('upper')}\nor {accuracy('profile')} < {accuracy('lower')}",
        "0s",
        WARNING,
        f"{HERE}: {{{{ $labels.stage }}}}={{{{ $labels.variant }}}} is not as accurate as its profile says",
        "The profile says {{ $value | humanizePercentage }}, which feedback refutes. Plans go by feedback.",
    ),
    Alert(
        "IpaCrowded",
        f"{held('apply.slo_broken', '10m')} > 0",
        "0s",
        WARNING,
        f"{HERE} was given more replicas than planned",
        "Requests were late, so capacity was added whatever the forecast says. The profile may promise too "
        "much.",
    ),
)

LOOP = (
    Alert(
        "IpaDown",
        f"absent({table.BUILD.name})",
        "2m",
        CRITICAL,
        "no replica of the service answers Prometheus",
        "Nothing has been scraped of ipa for two minutes. What runs goes on as it is; nothing follows "
        "the load.",
    ),
    Alert(
        "IpaStuck",
        f"time() - {table.LAST_TICK.name} > on (job, instance) group_left () "
        f"(6 * {table.TICK_INTERVAL.name})\nor {table.LAST_TICK.name} != {table.LAST_TICK.name}",
        "1m",
        CRITICAL,
        f"{HERE} is not decided about any more",
        "The last tick ended {{ $value | humanizeDuration }} ago (NaN: there was none), more than six "
        "intervals.",
    ),
    Alert(
        "IpaTicksLate",
        f"sum by ({BY}) (increase({table.SKIPPED_TICKS.name}[10m])) >= 3",
        "0s",
        WARNING,
        f"{HERE}: ticks take longer than the interval",
        "{{ $value | humanize }} ticks were left out in ten minutes since those before them took too long.",
    ),
    Alert(
        "IpaNoLeader",
        f"sum by (namespace, install) ({table.LEADER.name}) == 0",
        "1m",
        CRITICAL,
        "no replica of {{ $labels.install }} leads",
        "For a minute no replica has held the lease, so nothing is decided. A change of leaders takes 17 s.",
    ),
    Alert(
        "IpaTwoLeaders",
        f"sum by (namespace, install) ({table.LEADER.name}) > 1",
        "1m",
        CRITICAL,
        "{{ $value }} replicas of {{ $labels.install }} lead",
        "More than one replica says that it may write: leader election is off, or two installs have "
        "one name.",
    ),
    Alert(
        "IpaInputsStale",
        f'max by ({BY}, input) ({table.INPUT_AGE.name}{{input=~"load|workload"}}) > 60\n'
        f'or max by ({BY}, input) ({table.INPUT_AGE.name}{{input=~"load|workload"}})\n'
        f'  != max by ({BY}, input) ({table.INPUT_AGE.name}{{input=~"load|workload"}})',
        "1m",
        CRITICAL,
        f"{HERE}: the {{{{ $labels.input }}}} is not seen",
        "The {{ $labels.input }} was last seen {{ $value | humanizeDuration }} ago (NaN: never), so "
        "nothing follows it.",
    ),
    Alert(
        "IpaAuditFailing",
        # What people say and what came of a change is of no pipeline here, and said once.
        f"{held('hold.audit_failed', '5m')} > 0\n"
        f"or (sum by (namespace) (increase({table.RECORD_FAILURES.name}[5m])) > 0\n"
        f"  unless on (namespace) {held('hold.audit_failed', '5m')} > 0)",
        "0s",
        CRITICAL,
        "{{ with $labels.pipeline }}{{ . }}: {{ end }}the store takes no records",
        "What is decided, said or done cannot be recorded, and nothing is written that is not recorded.",
    ),
    Alert(
        "IpaStoreDegraded",
        f"max by (namespace) ({table.STORE_DEGRADED.name}) > 0",
        "2m",
        WARNING,
        "the store cannot be written, or its disk is nearly full",
        "`/readyz?verbose` has the reason and what mends it.",
    ),
)

PLANS = (
    Alert(
        "IpaInfeasible",
        f"{share('hold.infeasible', '5m')} > 0.5",
        "1m",
        WARNING,
        f"no plan of {HERE} meets its constraints",
        "{{ $value | humanizePercentage }} of the decisions of the last five minutes found no plan. "
        "`ipa explain` says what would make one.",
    ),
    Alert(
        "IpaSolverFailing",
        f"{share('hold.solver_failed', '5m')} > 0.25",
        "0s",
        WARNING,
        f"the solver gives {HERE} no plan",
        "{{ $value | humanizePercentage }} of the decisions of the last five minutes had no answer "
        "that holds.",
    ),
    Alert(
        "IpaNoRoom",
        f"{share('hold.no_room', '10m')} > 0.5",
        "5m",
        WARNING,
        f"{HERE}: no step to the plan fits the core budget",
        "Old and new replicas together have no room in the budget, in {{ $value | humanizePercentage "
        "}} of the decisions of the last ten minutes.",
    ),
    Alert(
        "IpaForecastOff",
        f"max by ({BY}) ({exceeded('1h')}) > 0.25",
        "10m",
        WARNING,
        f"{HERE} gets more than was forecast",
        "For {{ $value | humanizePercentage }} of the last hour the load was above its forecast; 5 % is "
        "normal.",
    ),
)

CHANGES = (
    Alert(
        "IpaRolledBack",
        f"{held('apply.rollback', '15m')} > 0",
        "0s",
        WARNING,
        f"a change of {HERE} was taken back",
        "A rollout failed or was late, so what ran before runs again.",
    ),
    Alert(
        "IpaRollbackFailed",
        f"{held('hold.rollback_failed', '5m')} > 0",
        "0s",
        CRITICAL,
        f"{HERE} needs manual repair: taking a change back failed too",
        "What runs is neither the new nor the old configuration, and nothing more is written.",
    ),
    Alert(
        "IpaQuarantined",
        f"{held('apply.rollback', '2h')} >= 2\n"
        f"  and max by ({BY}) (max_over_time({table.QUARANTINES.name}[2h])) > 0",
        "0s",
        WARNING,
        f"{HERE}: a variant fails to roll out again and again",
        "{{ $value | humanize }} changes of the last two hours were taken back. Each time it is left alone "
        "for longer.",
    ),
    Alert(
        "IpaDrift",
        f"{held('hold.drift', '5m')} > 0",
        "0s",
        WARNING,
        f"another hand changed {HERE}",
        "What runs differs from what was written, or is none of the pipeline's configurations.",
    ),
    Alert(
        "IpaWritesConflict",
        f"{held('hold.conflict', '10m')} >= 3",
        "0s",
        WARNING,
        f"writes of {HERE} are overtaken by another writer",
        "{{ $value | humanize }} times in the last ten minutes a write met a newer version of the object.",
    ),
    Alert(
        "IpaWritesRefused",
        f"{held('hold.rbac', '5m')} > 0",
        "0s",
        CRITICAL,
        f"the cluster refuses the writes of {HERE}",
        "A right is missing, or a webhook or the schema refused the change. Nothing more is written.",
    ),
)

API = (
    Alert(
        "IpaApiFailing",
        f'sum by (namespace) (rate({table.HTTP_REQUESTS.name}{{status="5xx"}}[5m]))\n'
        f"  / (sum by (namespace) (rate({table.HTTP_REQUESTS.name}[5m])) > 0.1) > 0.05",
        "2m",
        WARNING,
        "the API answers with faults",
        "{{ $value | humanizePercentage }} of the requests of the last five minutes were answered 5xx.",
    ),
)

GROUPS: dict[str, tuple[Alert, ...]] = {
    "ipa-requests": REQUESTS,
    "ipa-loop": LOOP,
    "ipa-plans": PLANS,
    "ipa-changes": CHANGES,
    "ipa-api": API,
}
ALERTS: tuple[Alert, ...] = tuple(alert for group in GROUPS.values() for alert in group)
