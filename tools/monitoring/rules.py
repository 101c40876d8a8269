"""Recording rules, and the words that alerts are written with."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.metering import table

# Of one pipeline; the namespace is that of the service, where targets say it.
BY = "namespace, pipeline"
# The router is elsewhere than the service: the pipeline's name alone joins them.
PIPELINE = "pipeline"
WINDOWS = ("5m", "30m", "1h", "6h")


@dataclass(frozen=True, slots=True)
class Recording:
    """A series that is computed beforehand."""

    name: str
    expr: str


def requests(window: str) -> str:
    """The series of requests a second that ended, by pipeline."""
    return f"ipa:router_requests:rate{window}"


def errors(window: str) -> str:
    """The series of the part of the requests that failed, were dropped or took longer than the SLA."""
    return f"ipa:slo_errors:ratio_rate{window}"


# The part of the requests that may miss the SLA: 0.01 for a p99.
BUDGET = "ipa:slo_budget:ratio"


def in_time(window: str) -> str:
    """Requests a second that were answered within the SLA, by pipeline."""
    weights = f"max by ({PIPELINE}, le) ({table.SLA_BUCKET_WEIGHT.name})"
    return (
        f"sum by ({PIPELINE}) (sum by ({PIPELINE}, le) (rate({table.ROUTER_SECONDS.name}_bucket[{window}]))"
        f" * on ({PIPELINE}, le) {weights})"
    )


def exceeded(window: str, where: str = "") -> str:
    """The part of the window in which the load was above the upper forecast made 15 s before.

    That is longer than a tick, and within the shortest horizon.
    """
    load, upper = (f"{metric.name}{where}" for metric in (table.ARRIVAL_RATE, table.FORECAST_UPPER))
    return f"avg_over_time(({load} > bool ({upper} offset 15s))[{window}:30s])"


def recordings() -> tuple[Recording, ...]:
    """All of them, each after those that it is made of."""
    rules = [Recording(BUDGET, f"1 - max by ({PIPELINE}) ({table.SLA_PERCENTILE.name})")]
    for window in WINDOWS:
        # What the router refuses is invalid: the client's fault.
        valid = f'{table.ROUTER_REQUESTS.name}{{outcome!="refused"}}'
        ended = f"sum by ({PIPELINE}) (rate({valid}[{window}]))"
        rules.append(Recording(requests(window), ended))
        # Without requests there is no ratio; rounding must not make it negative.
        ratio = f"clamp_min(1 - {in_time(window)} / ({requests(window)} > 0), 0)"
        rules.append(Recording(errors(window), ratio))
    return tuple(rules)


def held(reasons: str, window: str) -> str:
    """The number of times that the reasons (a regular expression) came in the window, by pipeline."""
    return f'sum by ({BY}) (increase({table.DECISIONS.name}{{reason=~"{reasons}"}}[{window}]))'


def share(reasons: str, window: str) -> str:
    """The part of the decisions in the window that had one of the reasons."""
    every = f"sum by ({BY}) (rate({table.DECISIONS.name}[{window}]))"
    return f'sum by ({BY}) (rate({table.DECISIONS.name}{{reason=~"{reasons}"}}[{window}])) / {every}'


def burning(long: str, short: str, factor: float) -> str:
    """The budget burns so many times too fast, over the long window and still over the short one.

    Of a budget so large that it could not burn so fast, nine in ten requests missing count. With fewer than
    a hundred requests a ratio says little.
    """
    limit = f"clamp_max({factor:g} * {BUDGET}, 0.9)"
    return (
        f"{errors(long)} > on ({PIPELINE}) {limit}\n"
        f"and on ({PIPELINE}) {errors(short)} > on ({PIPELINE}) {limit}\n"
        f"and on ({PIPELINE}) {requests(long)} * {seconds(long)} >= 100"
    )


def seconds(window: str) -> int:
    """The seconds of a window."""
    return int(window[:-1]) * {"s": 1, "m": 60, "h": 3600}[window[-1]]
