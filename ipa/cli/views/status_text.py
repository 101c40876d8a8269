"""Status, history and differences for people: tables on a terminal, lines in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ipa.cli.difference import Difference, StageDifference
from ipa.cli.views.incident_text import lasting_incident
from ipa.cli.views.times import date_time, time_of_day
from ipa.model.plan import WHOLE_PERCENT, cores_of
from ipa.model.resources import NO_RESOURCES, Resources, heading_of, in_column, in_words, total, words_of

SIGN = {True: "~", False: "="}
# The names of the figures of a stage's row, for output without headings: before and after its resources.
HELD = ("{}", "{}", "batch {}", "{} ready", "cores {}")
SERVED = ("λ {}", "latency {}", "{} of SLA", "ρ {}", "queue {}")


def status_table(status: dict[str, Any]) -> RenderableType:
    """The state of a pipeline as a table."""
    live = status["live"]
    held = _beside_cores(live["stages"])
    figures = ("batch", "ready", "cores", *held.amounts, "λ", "latency", "SLA", "ρ", "queue")
    table = bare_table("  stage", "variant", right=figures)
    for stage in live["stages"]:
        table.add_row(*_stage_row(stage, status["sla_s"], held, in_column))
    return Group(Text(head(status)), table, *(Text("  ") + remark for remark in remarks(status)))


def remarks(status: dict[str, Any]) -> list[Text]:
    """The lines about a pipeline as a whole; colours only repeat what the words say."""
    live, control = status["live"], status["control"]
    return [
        Text(f"PAS {_pas(live)}   cost {_cost(live)}"),
        Text(why(status), style="" if status["healthy"] else "bold red"),
        # Services before 0.2 tell neither where requests go nor much of what follows.
        *(Text(f"Requests: POST {it['url']}") for it in [status.get("address")] if it and it["url"]),
        *(Text(f"Paused{text}", style="bold yellow") for text in _pause(control)),
        *(Text(text, style="yellow") for text in _said(control)),
        *(Text(f"Degraded: {text}", style="red") for text in live["degraded"]),
        *(Text(_sentence(text), style="yellow") for text in (control or {}).get("profile_doubts", ())),
        *(Text(text, style="red") for text in lasting_incident(status)),
        *(
            Text(f"Planned only: {text}", style="yellow")
            for text in [status.get("not_runnable_because")]
            if text
        ),
        *edit_lines(status),
        *(Text(text) for text in canary_lines(status)),
        *(Text(text) for text in _served(live["stages"])),
        *(Text(text, style="yellow") for text in _lost(live)),
        *(
            Text(
                f"{it['stage']}={it['config']['variant']} takes {it['slowdown_ratio']:.2f} x its profile; "
                f"planned with {it['planned_slowdown_ratio']:.2f}",
                style="yellow",
            )
            for it in live["stages"]
            if it.get("planned_slowdown_ratio", 1.0) > 1
        ),
        *(Text(_sentence(text)) for text in [live.get("calibration", "")] if text),
        *(Text(text, style="yellow") for text in _standing(status)),
        *(Text(text) for text in _beside(status)),
    ]


def edit_lines(status: dict[str, Any]) -> list[Text]:
    """The latest edit while it ran: what changed, or why it is not in force."""
    edit = status.get("edit")
    if not edit:
        return []
    if edit["state"] == "taken":
        who, what = edit["by"] or "someone", "; ".join(edit["changes"])
        return [Text(f"Changed by {who} at {date_time(edit['at'])} ({edit['source']}): {what}")]
    head = "Edit refused" if edit["state"] == "refused" else "Edit waits"
    return [Text(f"{head}, the previous version stays in force: {edit['message']}", style="yellow")]


def canary_lines(status: dict[str, Any]) -> list[str]:
    """The measurement of a canary so far."""
    found = status["live"].get("canary")
    if not found:
        return []
    measured = f"measured for {found['measured_s']:.0f} of {found['measure_s']:g} s"
    if found["in_time_ratio"] is None:
        return [f"Canary: {found['share_percent']} % of the requests, {measured}"]
    return [
        f"Canary: {found['share_percent']} % of the requests, {measured}: "
        f"{100 * found['in_time_ratio']:.1f} % of {found['requests']:.0f} in time, "
        f"{found['failed']:.0f} failed, p{status['sla_percentile']:g} {_n(found['latency_s'], 3)} s"
    ]


def status_tree(status: dict[str, Any]) -> Tree:
    """The state of a pipeline as a tree: a branch for each stage, then the lines about the whole."""
    tree = Tree(Text(head(status)))
    held = _beside_cores(status["live"]["stages"])
    rows = [_stage_row(stage, status["sla_s"], held, in_words) for stage in status["live"]["stages"]]
    forms = (*HELD, *("{}" for _ in held.amounts), *SERVED)
    # The figures of each row with their names.
    cells = [
        [
            Text(form.format(cell.plain.strip()), style=cell.style)
            for form, cell in zip(forms, row, strict=False)
        ]
        for row in rows
    ]
    widths = [max(cell.cell_len for cell in column) for column in zip_longest(*cells, fillvalue=Text())]
    for row, stage in zip(cells, status["live"]["stages"], strict=True):
        line = Text(f"{_mark(stage)} ")
        for cell, width in zip(row, widths, strict=False):
            line.append_text(cell).append(" " * (width - cell.cell_len + 2))
        line.rstrip()
        tree.add(line)
    for remark in remarks(status):
        tree.add(remark)
    return tree


def _beside_of(stage: dict[str, Any]) -> Resources:
    """The resources of the stage's replicas beside their cores."""
    config, each = stage["config"], stage.get("beside")
    return Resources(**each) * config["replicas"] if config and each else NO_RESOURCES


def _beside_cores(stages: Sequence[dict[str, Any]]) -> Resources:
    """The resources of all stages beside their cores."""
    return total(map(_beside_of, stages))


def _cost(live: dict[str, Any]) -> str:
    """The resources of the running configuration, and their price if there are prices."""
    held = _beside_cores(live.get("stages", ())).amounts.items()
    price = live.get("cost_usd_per_hour")
    words = [cores_of(live["cost_cores"]), *(in_words(*each) for each in held)]
    return ", ".join(words if price is None else [*words, f"{price:.4g} USD/h"])


def _mark(stage: dict[str, Any]) -> str:
    """A sign for the stage: all replicas ready, not yet, or unknown."""
    config, ready = stage["config"], stage["ready_replicas"]
    if config is None or ready is None:
        return "?"
    return "✔" if ready == config["replicas"] else "…"


def head(status: dict[str, Any]) -> str:
    """The pipeline, its load, latency and mode in one line."""
    live, control = status["live"], status["control"]
    forecast, speed = live["forecast"], status.get("simulated_speed")
    ahead = ""
    if forecast:
        quantile = f"q{100 * forecast['quantile']:g}"
        ahead = f" → {forecast['upper_rps']:.1f} (forecast, {forecast['horizon_s']:g} s, {quantile})"
    latency = f"p{status['sla_percentile']:g} {_n(live['latency_s'], 3)} of {status['sla_s']:.3f} s"
    # Without a loop there is no mode, and no tick.
    mode = f"at revision {live['revision'] or 'unknown'}"
    if control is not None:
        mode = f"mode {control['mode']}   tick {live['tick']}"
    return (
        f"Pipeline {status['pipeline']}   λ {_n(live['rate_rps'], 1)}{ahead} rps   "
        f"{latency}{_in_time(live)}   {mode}" + ("" if speed is None else f"   simulated, ×{speed:g}")
    )


def _in_time(live: dict[str, Any]) -> str:
    """The share of the requests in time."""
    ratio = live.get("in_time_ratio")
    return "" if ratio is None else f", {100 * ratio:.1f} % in time"


def _standing(status: dict[str, Any]) -> list[str]:
    """The message that another replica of the service leads, if one does."""
    standing = status["standing"]
    if standing["leading"]:
        return []
    leader = standing["leader"] or "nobody"
    trouble = f" (the Lease cannot be used: {standing['trouble']})" if standing["trouble"] else ""
    return [f"Standby: {standing['identity']} answered, {leader} leads{trouble}"]


def _lost(live: dict[str, Any]) -> list[str]:
    """The requests without an answer, by stage and cause."""
    found = [
        f"{it['rate_rps']:.3g} rps{it['stage'] and ' at '}{it['stage']} ({it['cause'].replace('_', ' ')})"
        for it in live.get("losses", ())
    ]
    retried = live.get("retried_rps")
    return [f"Lost: {', '.join(found)}"] * bool(found) + (
        [f"Retried: {retried:.3g} batches/s, because their replica was lost"] if retried else []
    )


def _pas(live: dict[str, Any]) -> str:
    """The accuracy of what is to run, and of what answered; services before 0.2 do not tell the second."""
    served = live.get("served_pas")
    return _n(live["pas"], 3) + ("" if served is None else f", {served:.3f} as answered")


def _served(stages: Sequence[dict[str, Any]]) -> list[str]:
    """The variants that answered, of each stage where others than the running one did."""
    shares = {stage["stage"]: stage.get("served", ()) for stage in stages}
    return [
        f"{stage}: answered by "
        + ", ".join(f"{it['variant']} ({100 * it['share_ratio']:.3g} %)" for it in found)
        for stage, found in shares.items()
        if found
    ]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _beside(status: dict[str, Any]) -> list[str]:
    """The configurations of shadow policies."""
    lines = []
    for each in status.get("beside", ()):
        configs = "  ".join(config_words(config) for config in each["configs"]) or "nothing yet"
        cost = f"PAS {_n(each['pas'], 3)}   cost {_cost(each)}"
        lines.append(f"{each['policy']} would run {configs}   {cost}")
    return lines


def why(status: dict[str, Any]) -> str:
    """The latest decision, and the time of the next."""
    live = status["live"]
    said = ": ".join(part for part in (live["reason"], live["detail"]) if part) or "no decision yet"
    due = live["next_tick_in_s"]
    return said if due is None else f"{said}   (next tick in {due:.0f} s)"


def status_line(status: dict[str, Any]) -> str:
    """The state of a pipeline in one line, for logs and pipes."""
    live = status["live"]
    forecast = live["forecast"]
    stages = "  ".join(_short(stage) for stage in live["stages"])
    ahead = f"→{forecast['upper_rps']:.1f}" if forecast else ""
    parts = [
        f"{time_of_day(live['at'])} {status['pipeline']}"
        + (f" tick {live['tick']}" if status["control"] else ""),
        f"λ {_n(live['rate_rps'], 1)}{ahead} rps",
        f"p{status['sla_percentile']:g} {_n(live['latency_s'], 3)}/{status['sla_s']:g} s{_in_time(live)}",
        f"PAS {_pas(live)}",
        _cost(live),
        stages,
        ": ".join(part for part in (live["reason"], live["detail"]) if part),
    ]
    parts += [f"paused{text}" for text in _pause(status["control"])]
    return "   ".join(part for part in parts if part)


def history_table(decisions: Sequence[dict[str, Any]], *, is_changes: bool = False) -> RenderableType:
    """The table of decisions, newest first; the number of a change is its revision."""
    if not decisions:
        return Text("no decisions yet")
    held = [_held_after(each) for each in decisions]
    # Other resources only if some configuration has them: its words have the cores.
    columns = list(total(each for each in held if each is not None).amounts)
    table = bare_table(
        "at",
        "revision" if is_changes else "tick",
        "reason",
        "configuration",
        *map(heading_of, columns),
        "detail",
        "id",
    )
    for each, beside in zip(decisions, held, strict=True):
        row = (
            date_time(each["at"]),
            str(each["tick"]),
            each["reason"],
            "  ".join(config_words(config) for config in each["configs"]),
            *("–" if beside is None else f"{beside.amount(name):g}" for name in columns),
            each["detail"],
            each["decision_id"],
        )
        table.add_row(*(Text(cell) for cell in row))
    return table


def _held_after(decision: dict[str, Any]) -> Resources | None:
    """The resources beside cores of the decision's configuration; None if they are not in its plan."""
    stages = (decision.get("plan") or {"stages": ()})["stages"]
    each = {(it["stage"], it["variant"]): Resources(**it.get("beside") or {}) for it in stages}
    configs = [((it["stage"], it["variant"]), it["replicas"]) for it in decision["configs"]]
    if not configs or any(replica not in each for replica, _ in configs):
        return None
    return total(each[replica] * count for replica, count in configs)


def difference_table(found: Difference) -> RenderableType:
    """The table of differences: ~ changes, = stays."""
    rate = "" if found.rate_rps is None else f"   λ {found.rate_rps:.4g} rps"
    known = [each for stage in found.stages for each in (stage.beside, stage.wanted_beside) if each]
    columns = list(total(known).amounts)
    figures = ("batch", "replicas", "cores each", "cores", *map(heading_of, columns))
    table = bare_table("  stage", "variant", right=figures)
    for stage in found.stages:
        table.add_row(*_difference_row(stage, columns))
    cost = [f"{_delta(found.cost_cores, found.wanted_cost_cores, 'g', relative=True)} cores"]
    cost += [
        f"{_resource_delta(found.beside, found.wanted_beside, name)} {words_of(name)}" for name in columns
    ]
    price, wanted_price = found.cost_usd_per_hour, found.wanted_cost_usd_per_hour
    if price is not None or wanted_price is not None:
        cost.append(f"{_delta(price, wanted_price, '.4g', relative=True)} USD/h")
    pas = _delta(found.pas, found.wanted_pas, ".3f")
    changes = sum(bool(stage.changed) for stage in found.stages)
    end = f"  {changes} of {len(found.stages)} stages would change." if found.changed else "  No change."
    return Group(
        Text(f"Pipeline {found.pipeline}{rate}   at revision {found.revision or 'unknown'}"),
        table,
        Text(f"  PAS {pas}   cost {', '.join(cost)}"),
        Text(end),
    )


def undo_lines(undo: dict[str, Any]) -> list[str]:
    """The changes that a rollback takes back, the newest first, and whether it has to be confirmed."""
    lines = [f"It {undo['words']}."]
    for each in undo["takes_back"]:
        by = f" by {each['by'] or 'someone'}" if each["reason"] == "apply.requested" else ""
        lines.append(f"  revision {each['revision']}, {date_time(each['at'])}{by}: {each['detail']}")
    if undo["unconfirmed"]:
        lines.append(f"It needs --confirm: {undo['unconfirmed']}.")
    return lines


def bare_table(
    *left: str, right: Iterable[str] = (), last: Iterable[str] = (), pad_edge: bool = True
) -> Table:
    """A table without rules: columns aligned left, then right, then left again."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=pad_edge)
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    for heading in last:
        table.add_column(heading)
    return table


def _stage_row(
    stage: dict[str, Any], sla_s: float, columns: Resources, shown: Callable[[str, float], str]
) -> list[Text]:
    """The cells of a stage; `columns` name the resources beside its cores, which `shown` words.

    A latency that is not measured is the planned one, after ≈.
    """
    config = stage["config"]
    if config is None:
        return [Text(f"  {stage['stage']}"), Text("not seen")]
    latency, busy, about = stage["latency_s"], stage["utilisation_ratio"], ""
    if latency is None:
        latency, about = stage.get("planned_latency_s"), "≈"
    ready = "–" if stage["ready_replicas"] is None else stage["ready_replicas"]
    is_waiting = stage["ready_replicas"] != config["replicas"]
    return [
        Text(f"  {stage['stage']}"),
        Text(config["variant"] + _share(config) + _resident(stage)),
        Text(str(config["batch_size"])),
        Text(f"{ready}/{config['replicas']}{_desired(stage)}", style="yellow" if is_waiting else ""),
        Text(f"{config['cores'] * config['replicas']:g}"),
        *(Text(shown(name, _beside_of(stage).amount(name))) for name in columns.amounts),
        Text(f"{_n(stage['arrival_rate_rps'], 1)}/s"),
        Text("–" if latency is None else f"{about}{latency:.3f} s"),
        Text("–" if latency is None else f"{about}{latency / sla_s:.0%}"),
        Text(_n(busy, 2), style="red" if busy is not None and busy > 1 else ""),
        Text(_plain(stage["queue_length"])),
    ]


def _difference_row(stage: StageDifference, columns: Sequence[str]) -> list[Text]:
    before = stage.running or {}
    if stage.wanted is None:
        return [Text(f"{SIGN[True]} {stage.stage}"), Text(f"{before['variant']} → nothing", style="bold")]
    cells = [Text(f"{SIGN[bool(stage.changed)]} {stage.stage}")]
    for name in ("variant", "batch_size", "replicas", "cores"):
        old, new = before.get(name, "?"), stage.wanted[name]
        is_new = name in stage.changed
        cells.append(
            Text(f"{_show(old)} → {_show(new)}" if is_new else _show(new), style="bold" if is_new else "")
        )
    was, share = before.get("share_percent", WHOLE_PERCENT), stage.wanted["share_percent"]
    cells[1].append(_share(stage.wanted) if was == share else f" for {was} → {share} %")
    wanted = stage.wanted["cores"] * stage.wanted["replicas"]
    cells.append(Text(_delta(before["cores"] * before["replicas"] if before else None, wanted, "g")))
    cells += [Text(_resource_delta(stage.beside, stage.wanted_beside, name)) for name in columns]
    return cells


def _delta(old: float | None, new: float | None, form: str, *, relative: bool = False) -> str:
    """The text `old → new (+difference, +percent)`, as far as the values are known."""
    shown = "–" if new is None else f"{new:{form}}"
    if old is None:
        return shown
    if new is None or f"{old:{form}}" == shown:
        return f"{old:{form}}"
    share = f", {(new - old) / old:+.0%}" if relative and old else ""
    return f"{old:{form}} → {shown} ({new - old:+{form}}{share})"


def _resource_delta(old: Resources | None, new: Resources | None, name: str) -> str:
    """As `_delta`, of one resource; a question mark for an unknown new amount."""
    before = None if old is None else old.amount(name)
    if new is None:
        return "?" if before is None else f"{before:g} → ?"
    return _delta(before, new.amount(name), "g")


def _pause(control: dict[str, Any] | None) -> list[str]:
    if control is None or not control["paused"]:
        return []
    until = f" until {date_time(control['paused_until'])}" if control["paused_until"] else ""
    return [until + _who(control["paused_by"], control["paused_reason"])]


def _said(control: dict[str, Any] | None) -> list[str]:
    """Pins and freezes, each with its author and reason; the mode too if it has a reason."""
    if control is None:
        return []
    who = _who(control["mode_by"], control["mode_reason"])
    said = [f"Mode {control['mode']}{who}"] if who else []
    said += [f"Pinned {each['stage']}: {pin_words(each)}" for each in control["pins"]]
    return said + [f"Frozen {freeze_words(each)}" for each in control["freezes"]]


def _short(stage: dict[str, Any]) -> str:
    if stage["config"] is None:
        return f"{stage['stage']}=?"
    ready = "?" if stage["ready_replicas"] is None else stage["ready_replicas"]
    return config_words(stage["config"], f"{ready}/")


def config_words(config: dict[str, Any], ready: str = "") -> str:
    """The configuration of a stage in short."""
    replicas = f"{ready}{config['replicas']}×{config['cores']:g}"
    return f"{config['stage']}={config['variant']} b{config['batch_size']} {replicas}{_share(config)}"


def _resident(stage: dict[str, Any]) -> str:
    """The number of variants that the replicas switch to in place; empty for none."""
    others = stage.get("resident")
    return f" (+{len(others)} resident)" if others else ""


def _desired(stage: dict[str, Any]) -> str:
    """The replicas that the service would run, if another controller runs another number; else empty."""
    wanted = stage.get("desired_replicas")
    return "" if wanted in (None, stage["config"]["replicas"]) else f" ({wanted} desired)"


def _share(config: dict[str, Any]) -> str:
    """The share of the requests; empty if it is all of them."""
    percent = config.get("share_percent", WHOLE_PERCENT)
    return "" if percent == WHOLE_PERCENT else f" for {percent} %"


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _n(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def pin_words(pin: dict[str, Any]) -> str:
    """A pin as the status shows it: fields, author, reason."""
    fixed = ", ".join(f"{key} {value}" for key, value in pin["pin"].items() if value is not None)
    return fixed + _who(pin["by"], pin["reason"])


def freeze_words(freeze: dict[str, Any]) -> str:
    """A freeze as the status shows it: window, author, reason, and its id."""
    weekly = ", every week" if freeze["weekly"] else ""
    now = ", now" if freeze["active"] else ""
    window = f"{date_time(freeze['start'])} to {date_time(freeze['end'])}"
    return f"{window}{weekly}{now}{_who(freeze['by'], freeze['reason'])}   ({freeze['id']})"


def _who(by: str, reason: str) -> str:
    return (f" by {by}" if by else "") + (f": {reason}" if reason else "")
