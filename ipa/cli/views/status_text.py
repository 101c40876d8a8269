"""The state of pipelines for people: status, history and differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ipa.cli.difference import Difference, StageDifference
from ipa.cli.layout import (
    ViewColumn,
    by_whom,
    date_time,
    delta,
    figure,
    make_table,
    resource_columns,
    time_of_day,
)
from ipa.model.plan import WHOLE_PERCENT, cores_of
from ipa.model.resources import NO_RESOURCES, Resources, in_words, total, words_of

Json = Mapping[str, Any]
SIGN = {True: "~", False: "="}


def status_table(status: Json) -> Group:
    """The state of a pipeline: its stages, and the lines about the whole."""
    live, sla_s = status["live"], status["sla_s"]
    held = total(map(_beside_resources, live["stages"]))

    def of(shown: Any) -> Any:
        """The value of a stage whose configuration is known, else empty."""
        return lambda stage: "" if stage["config"] is None else shown(stage)

    table = make_table(
        live["stages"],
        ViewColumn("stage", "stage"),
        ViewColumn("variant", _variant),
        ViewColumn("batch", of(lambda stage: stage["config"]["batch_size"]), "{}"),
        ViewColumn("ready", of(_ready), "{}"),
        ViewColumn("cores", of(lambda it: it["config"]["cores"] * it["config"]["replicas"]), "{:g}"),
        *resource_columns(held.amounts, _beside_resources),
        ViewColumn("λ", of(lambda stage: f"{_n(stage['arrival_rate_rps'], 1)}/s"), "{}"),
        ViewColumn("latency", of(lambda stage: _latency(stage, "{:.3f} s", 1.0)), "{}"),
        ViewColumn("SLA", of(lambda stage: _latency(stage, "{:.0%}", sla_s)), "{}"),
        ViewColumn("ρ", of(_busy), "{:.2f}"),
        ViewColumn("queue", of(lambda stage: stage["queue_length"]), "{:g}"),
        indent="  ",
    )
    # Colours only repeat what the words say.
    remarks = (Text(f"  {words}", style=style) for words, style in _remarks(status))
    return Group(Text(head(status)), table, *remarks)


def _variant(stage: Json) -> str:
    """The variant with its share, and the number of variants that the replicas switch to in place."""
    if stage["config"] is None:
        return "not seen"
    others = stage.get("resident")
    resident = f" (+{len(others)} resident)" if others else ""
    return str(stage["config"]["variant"]) + _share(stage["config"]) + resident


def _ready(stage: Json) -> Text:
    """The number of ready replicas, out of the wanted number."""
    replicas, ready = stage["config"]["replicas"], stage["ready_replicas"]
    return Text(f"{figure(ready)}/{replicas}", style="" if ready == replicas else "yellow")


def _latency(stage: Json, form: str, of_s: float) -> str | None:
    """The measured latency, or the planned one after ≈."""
    if stage["latency_s"] is not None:
        return form.format(stage["latency_s"] / of_s)
    planned_s = stage.get("planned_latency_s")
    return None if planned_s is None else f"≈{form.format(planned_s / of_s)}"


def _busy(stage: Json) -> Text:
    busy = stage["utilisation_ratio"]
    return Text(_n(busy, 2), style="red" if busy is not None and busy > 1 else "")


def _remarks(status: Json) -> Iterator[tuple[str, str]]:
    """The lines about a pipeline as a whole, each with its style."""
    live, control = status["live"], status["control"]
    yield f"PAS {_pas(live)}   cost {_cost(live)}", ""
    yield why(status), "" if status["healthy"] else "bold red"
    if (address := status.get("address")) and address["url"]:
        yield f"Requests: POST {address['url']}", ""
    if control["paused"]:
        yield f"Paused{_pause(control)}", "bold yellow"
    if who := by_whom(control["mode_by"], control["mode_reason"]):
        yield f"Mode {control['mode']}{who}", "yellow"
    yield from ((f"Pinned {each['stage']}: {pin_words(each)}", "yellow") for each in control["pins"])
    yield from ((f"Frozen {freeze_words(each)}", "yellow") for each in control["freezes"])
    yield from ((f"Degraded: {text}", "red") for text in live["degraded"])
    yield from ((text[:1].upper() + text[1:], "yellow") for text in control.get("profile_doubts", ()))
    if text := status.get("not_runnable_because"):
        yield f"Planned only: {text}", "yellow"
    if edit := status.get("edit"):
        yield _edit_words(edit), "" if edit["state"] == "taken" else "yellow"
    yield from ((words, "") for words in canary_lines(status))
    yield from _served(live)
    if not (standing := status["standing"])["leading"]:
        trouble = f" (the Lease cannot be used: {standing['trouble']})" if standing["trouble"] else ""
        leader = standing["leader"] or "nobody"
        yield f"Standby: {standing['identity']} answered, {leader} leads{trouble}", "yellow"
    for each in status.get("beside", ()):
        configs = "  ".join(config_words(config) for config in each["configs"]) or "nothing yet"
        yield f"{each['policy']} would run {configs}   PAS {_n(each['pas'], 3)}   cost {_cost(each)}", ""


def _served(live: Json) -> Iterator[tuple[str, str]]:
    """The variants that answered in place of the running ones, lost requests, and slow replicas."""
    for stage in live["stages"]:
        if answered := stage.get("served"):
            shares = (f"{it['variant']} ({100 * it['share_ratio']:.3g} %)" for it in answered)
            yield f"{stage['stage']}: answered by {', '.join(shares)}", ""
    lost = [
        f"{it['rate_rps']:.3g} rps{it['stage'] and ' at '}{it['stage']} ({it['cause'].replace('_', ' ')})"
        for it in live.get("losses", ())
    ]
    if lost:
        yield f"Lost: {', '.join(lost)}", "yellow"
    if retried := live.get("retried_rps"):
        yield f"Retried: {retried:.3g} batches/s, because their replica was lost", "yellow"
    for stage in live["stages"]:
        if stage.get("planned_slowdown_ratio", 1.0) > 1:
            ratio, deviation = stage["slowdown_ratio"], stage.get("slowdown_deviation")
            times = f"{ratio:.2f}" if deviation is None else f"{ratio:.2f} ± {deviation:.2f}"
            takes = f"{stage['stage']}={stage['config']['variant']} takes {times} x its profile"
            yield f"{takes}; planned with {stage['planned_slowdown_ratio']:.2f}", "yellow"
    for stage in live["stages"]:
        for each in stage.get("measured", ()):
            bounds = f"{each['lower']:.3f} to {each['upper']:.3f} by {each['labels']} labels"
            what = f"{stage['stage']}={each['variant']}: accuracy {each['profiled']:.3f} by its profile"
            colour = "yellow" if each["contradicts"] else ""
            yield f"{what}, {_n(each['mean'], 3)} measured ({bounds})", colour


def _edit_words(edit: Json) -> str:
    """The latest edit while the pipeline ran: what changed, or why it is not in force."""
    if edit["state"] == "taken":
        what = f"({edit['source']}): {'; '.join(edit['changes'])}"
        return f"Changed by {edit['by'] or 'someone'} at {date_time(edit['at'])} {what}"
    state = "refused" if edit["state"] == "refused" else "waits"
    return f"Edit {state}, the previous version stays in force: {edit['message']}"


def canary_lines(status: Json) -> list[str]:
    """The measurement of a canary so far."""
    canary = status["live"].get("canary")
    if not canary:
        return []
    measured = f"measured for {canary['measured_s']:.0f} of {canary['measure_s']:g} s"
    if canary["in_time_ratio"] is not None:
        measured += (
            f": {100 * canary['in_time_ratio']:.1f} % of {canary['requests']:.0f} in time, "
            f"{canary['failed']:.0f} failed, p{status['sla_percentile']:g} {_n(canary['latency_s'], 3)} s"
        )
    return [f"Canary: {canary['share_percent']} % of the requests, {measured}"]


def _beside_resources(stage: Json) -> Resources:
    """The resources of the stage's replicas other than cores."""
    config, each = stage["config"], stage.get("beside")
    return Resources(**each) * config["replicas"] if config and each else NO_RESOURCES


def _cost(live: Json) -> str:
    """The resources of the running configuration, and their price if there are prices."""
    held = total(map(_beside_resources, live.get("stages", ()))).amounts.items()
    price = live.get("cost_usd_per_hour")
    words = [cores_of(live["cost_cores"]), *(in_words(*each) for each in held)]
    return ", ".join(words if price is None else [*words, f"{price:.4g} USD/h"])


def head(status: Json) -> str:
    """The pipeline, its load, latency and mode in one line."""
    live, control = status["live"], status["control"]
    forecast, speed = live["forecast"], status.get("simulated_speed")
    ahead = ""
    if forecast:
        quantile = f"q{100 * forecast['quantile']:g}"
        ahead = f" → {forecast['upper_rps']:.1f} (forecast, {forecast['horizon_s']:g} s, {quantile})"
    latency = f"p{status['sla_percentile']:g} {_n(live['latency_s'], 3)} of {status['sla_s']:.3f} s"
    mode = f"mode {control['mode']}   tick {live['tick']}"
    return (
        f"Pipeline {status['pipeline']}   λ {_n(live['rate_rps'], 1)}{ahead} rps   "
        f"{latency}{_in_time(live)}   {mode}" + ("" if speed is None else f"   simulated, ×{speed:g}")
    )


def _in_time(live: Json) -> str:
    """The share of the requests in time."""
    ratio = live.get("in_time_ratio")
    return "" if ratio is None else f", {100 * ratio:.1f} % in time"


def _pas(live: Json) -> str:
    """The accuracy of the wanted configuration, of the variants that answered, and as measured."""
    served, measured = live.get("served_pas"), live.get("measured_pas")
    bounds = f", {measured[0]:.3f} to {measured[1]:.3f} measured" if measured else ""
    return _n(live["pas"], 3) + ("" if served is None else f", {served:.3f} as answered") + bounds


def why(status: Json) -> str:
    """The latest decision, and the time of the next tick."""
    due = status["live"]["next_tick_in_s"]
    words = _decision(status["live"]) or "no decision yet"
    return words if due is None else f"{words}   (next tick in {due:.0f} s)"


def _decision(live: Json) -> str:
    return ": ".join(part for part in (live["reason"], live["detail"]) if part)


def status_line(status: Json) -> str:
    """The state of a pipeline in one line, for logs and pipes."""
    live, control = status["live"], status["control"]
    ahead = f"→{live['forecast']['upper_rps']:.1f}" if live["forecast"] else ""
    parts = [
        f"{time_of_day(live['at'])} {status['pipeline']} tick {live['tick']}",
        f"λ {_n(live['rate_rps'], 1)}{ahead} rps",
        f"p{status['sla_percentile']:g} {_n(live['latency_s'], 3)}/{status['sla_s']:g} s{_in_time(live)}",
        f"PAS {_pas(live)}",
        _cost(live),
        "  ".join(map(_short, live["stages"])),
        _decision(live),
        f"paused{_pause(control)}" if control["paused"] else "",
    ]
    return "   ".join(part for part in parts if part)


def history_table(decisions: Sequence[Json], *, is_changes: bool = False) -> RenderableType:
    """The table of decisions, newest first; the number of a change is its revision."""
    if not decisions:
        return Text("no decisions yet")
    return make_table(
        decisions,
        ViewColumn("at", lambda each: date_time(each["at"])),
        ViewColumn("revision" if is_changes else "tick", "tick"),
        ViewColumn("reason", "reason"),
        ViewColumn("configuration", lambda each: "  ".join(map(config_words, each["configs"]))),
        ViewColumn("detail", "detail"),
        ViewColumn("id", "decision_id"),
    )


def difference_table(change: Difference) -> Group:
    """The table of differences: ~ changes, = stays."""
    rate = "" if change.rate_rps is None else f"   λ {change.rate_rps:.4g} rps"
    known = [each for stage in change.stages for each in (stage.beside, stage.wanted_beside) if each]
    names = list(total(known).amounts)
    table = make_table(
        change.stages,
        ViewColumn("  stage", lambda stage: f"{SIGN[bool(stage.changed)]} {stage.stage}"),
        ViewColumn("variant", _variant_change),
        _change_column("batch", "batch_size"),
        _change_column("replicas", "replicas"),
        _change_column("cores each", "cores"),
        ViewColumn("cores", _cores_change, "{}"),
    )
    cost = [f"{delta(change.cost_cores, change.wanted_cost_cores, 'g', relative=True)} cores"]
    cost += [
        f"{_resource_delta(change.beside, change.wanted_beside, name)} {words_of(name)}" for name in names
    ]
    price, wanted_price = change.cost_usd_per_hour, change.wanted_cost_usd_per_hour
    if price is not None or wanted_price is not None:
        cost.append(f"{delta(price, wanted_price, '.4g', relative=True)} USD/h")
    changes = sum(bool(stage.changed) for stage in change.stages)
    return Group(
        Text(f"Pipeline {change.pipeline}{rate}   at revision {change.revision or 'unknown'}"),
        table,
        Text(f"  PAS {delta(change.pas, change.wanted_pas, '.3f')}   cost {', '.join(cost)}"),
        Text(f"  {changes} of {len(change.stages)} stages would change." if changes else "  No change."),
    )


def _change_column(heading: str, name: str) -> ViewColumn:
    return ViewColumn(heading, lambda stage: _change(stage, name), "{}")


def _variant_change(stage: StageDifference) -> Text:
    before = stage.running or {}
    if stage.wanted is None:
        return Text(f"{before['variant']} → nothing", style="bold")
    was, share = before.get("share_percent", WHOLE_PERCENT), stage.wanted["share_percent"]
    words = _share(stage.wanted) if was == share else f" for {was} → {share} %"
    return _change(stage, "variant").append(words)


def _change(stage: StageDifference, name: str) -> Text:
    if stage.wanted is None:
        return Text()
    old, new = (values.get(name, "?") for values in (stage.running or {}, stage.wanted))
    before, after = (f"{each:g}" if isinstance(each, float) else str(each) for each in (old, new))
    is_new = name in stage.changed
    return Text(f"{before} → {after}" if is_new else after, style="bold" if is_new else "")


def _cores_change(stage: StageDifference) -> str:
    was, wanted = (
        None if config is None else config["cores"] * config["replicas"]
        for config in (stage.running, stage.wanted)
    )
    return "" if stage.wanted is None else delta(was, wanted, "g")


def _resource_delta(old: Resources | None, new: Resources | None, name: str) -> str:
    """The `delta` of one resource; a question mark for an unknown new amount."""
    before = None if old is None else old.amount(name)
    if new is None:
        return "?" if before is None else f"{before:g} → ?"
    return delta(before, new.amount(name), "g")


def undo_lines(undo: Json) -> list[str]:
    """The changes that a rollback takes back, the newest first, and whether it has to be confirmed."""
    lines = [f"It {undo['words']}."]
    for each in undo["takes_back"]:
        by = f" by {each['by'] or 'someone'}" if each["reason"] == "apply.requested" else ""
        lines.append(f"  revision {each['revision']}, {date_time(each['at'])}{by}: {each['detail']}")
    if undo["unconfirmed"]:
        lines.append(f"It needs --confirm: {undo['unconfirmed']}.")
    return lines


def _pause(control: Json) -> str:
    until = f" until {date_time(control['paused_until'])}" if control["paused_until"] else ""
    return until + by_whom(control["paused_by"], control["paused_reason"])


def _short(stage: Json) -> str:
    if stage["config"] is None:
        return f"{stage['stage']}=?"
    ready = "?" if stage["ready_replicas"] is None else stage["ready_replicas"]
    return config_words(stage["config"], f"{ready}/")


def config_words(config: Json, ready: str = "") -> str:
    """The configuration of a stage in short."""
    replicas = f"{ready}{config['replicas']}×{config['cores']:g}"
    return f"{config['stage']}={config['variant']} b{config['batch_size']} {replicas}{_share(config)}"


def _share(config: Json) -> str:
    """The share of the requests; empty if it is all of them."""
    percent = config.get("share_percent", WHOLE_PERCENT)
    return "" if percent == WHOLE_PERCENT else f" for {percent} %"


def _n(value: float | None, digits: int) -> str:
    return figure(value, f"{{:.{digits}f}}")


def pin_words(pin: Json) -> str:
    """A pin as the status shows it: fields, author, reason."""
    fixed = ", ".join(f"{key} {value}" for key, value in pin["pin"].items() if value is not None)
    return fixed + by_whom(pin["by"], pin["reason"])


def freeze_words(freeze: Json) -> str:
    """A freeze as the status shows it: window, author, reason, and its id."""
    weekly = ", every week" if freeze["weekly"] else ""
    now = ", now" if freeze["active"] else ""
    window = f"{date_time(freeze['start'])} to {date_time(freeze['end'])}"
    return f"{window}{weekly}{now}{by_whom(freeze['by'], freeze['reason'])}   ({freeze['id']})"
