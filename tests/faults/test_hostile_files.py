"""Files and requests that are wrong, huge, or meant to do harm."""

from __future__ import annotations

import copy
import gzip
import math
import re
import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import psutil
import pytest
import yaml

from ipa.adapters.store import open_store
from ipa.adapters.store.copies import back_up, restore
from ipa.files import load_pipeline, load_pipelines, load_profile, load_profiles
from ipa.files.check import check_files
from ipa.files.document import MAX_BYTES, to_json_pointer
from ipa.files.traces import read_trace
from ipa.model.errors import InputError, IpaError
from ipa.model.profile import ProfilePoint
from ipa.profiling.findings import lint_profile
from ipa.settings import Settings
from tests.fakes.world import PROFILES, Scenario, scenario
from tests.faults.table import Case
from tests.property.test_files_properties import (
    ALL_PLACES,
    ECHOES,
    GOOD,
    REPLACEMENTS,
    SCHEMA_KEYS,
    parent_of,
)
from tests.property.test_files_properties import problems_of as problems_in
from tests.unit.files.test_files_broken import BROKEN, expected, load, without_parser

# No file may take longer, or more memory, than this on a busy machine; a bomb would take all there is.
PARSE_S, PARSE_MB = 10.0, 100.0


def problems_of(call: Callable[[], object]) -> list[str]:
    """The faults, each with its line; empty where there are none."""
    try:
        call()
    except InputError as error:
        return [f"{p.line}:{p.column} {p.pointer or '/'} {p.message}" for p in error.problems]
    return []


def test_i1_every_fault_of_a_profile_is_listed_with_its_line(case: Case) -> None:
    seeded = detected = 0
    for path in BROKEN:
        if not path.name.startswith("profile"):
            continue
        wanted = without_parser(expected(path))
        problems = without_parser(problems_of(lambda path=path: load(path)))
        seeded += len(wanted)
        detected += len([line for line in wanted if line in problems])
    case.note("seeded", seeded)
    case.equal("detected / seeded %", 100.0 * detected / seeded, 100.0)


def test_i1_what_is_odd_is_remarked_and_what_lacks_is_named(case: Case, tmp_path: Path) -> None:
    """One point, points out of order, latency that falls, a poor fit, a variant that was not measured."""
    profile = PROFILES["detect"]
    first = profile.variants[0]

    def with_points(*points: tuple[int, float]) -> tuple[str, ...]:
        made = tuple(ProfilePoint(1.0, batch, latency_s) for batch, latency_s in points)
        odd = replace(profile, variants=(replace(first, points=made),))
        return tuple(remark.topic for remark in lint_profile(odd))

    ordered, shuffled = ((1, 0.1), (2, 0.15), (4, 0.25)), ((4, 0.25), (1, 0.1), (2, 0.15))
    detected = {
        "falling latency": any("falls" in topic for topic in with_points((1, 0.2), (2, 0.1), (4, 0.05))),
        "poor fit": any("poor fit" in topic for topic in with_points((1, 0.1), (2, 0.9), (4, 0.1), (8, 0.9))),
        "unsorted points are the same profile": with_points(*ordered) == with_points(*shuffled) == (),
        "one point is enough": with_points((1, 0.1)) == (),
    }
    folders = tmp_path / "pipelines", tmp_path / "profiles"
    for folder, kind, name in zip(folders, ("graph", "profile"), ("pipeline", "detect"), strict=True):
        (folder / "shop").mkdir(parents=True)
        (folder / "shop" / f"{name}.yaml").write_text(yaml.safe_dump(GOOD[kind][0], sort_keys=False))
    messages = [problem.message for each in check_files((), *folders) for problem in each.problems]
    # The profile has "small"; the pipeline's stage has "tiny" and "huge", and two stages without a profile.
    for wanted in ("variant 'tiny' is not in", "variant 'huge' is not in", "'small' has no profile"):
        detected[wanted] = any(wanted in message for message in messages)
    case.note("seeded", len(detected))
    case.equal("detected / seeded %", 100.0 * sum(detected.values()) / len(detected), 100.0)


def _laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)])


BOMBS: dict[str, bytes] = {
    "a billion laughs": _laughs().encode(),
    "quadratic aliases": b"a: &a [" + b"x," * 20_000 + b"x]\nb: [" + b"*a," * 20_000 + b"*a]",
    "an alias of itself": b"name: &a [*a]",
    "merge keys": b"a: &a {k: v}\nb:\n  <<: *a\n  <<: *a",
    "10 000 deep": b"[" * 10_000,
    "10 000 deep mappings": b"{a: " * 10_000,
    "10 000 deep by indentation": b"\n".join(b" " * at + b"a:" for at in range(1400)),
    "a tag that runs code": b"!!python/object/apply:os.system ['touch /tmp/ipa-was-here']",
    "a tag of binary": b"name: !!binary aGk=",
    "duplicate keys": b"name: a\nname: b",
    "NUL": b"name: a\0b",
    "UTF-16": "name: shop".encode("utf-16"),
    "not UTF-8": b"name: \xff\xfe\xfa",
    "two documents": b"name: a\n---\nname: b",
    "1 MB of one line": b"name: " + b"x" * (MAX_BYTES - 10),
    "20 000 keys": b"\n".join(b"k%d: 1" % at for at in range(20_000)),
    "no, 0o7, 1e3 as names": b"name: no\nkind: 0o7\napiVersion: 1e3",
    "a number of a million digits": b"name: " + b"9" * 900_000,
}


def test_i2_yaml_bombs(case: Case, tmp_path: Path) -> None:
    refused = 0
    path = tmp_path / "pipeline.yaml"
    for bomb in BOMBS.values():
        path.write_bytes(bomb)
        refused += bool(problems_of(lambda: load_pipeline(path)))
    # Measured apart, since watching memory takes several times as long.
    tracemalloc.start()
    for name in ("a billion laughs", "10 000 deep", "1 MB of one line"):
        path.write_bytes(BOMBS[name])
        assert problems_of(lambda: load_pipeline(path))
    with path.open("wb") as stream:
        stream.truncate(100 * MAX_BYTES)
    refused += bool(problems_of(lambda: load_pipeline(path)))
    peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    case.equal("refused with a position", refused, len(BOMBS) + 1)
    case.equal("code run", Path("/tmp/ipa-was-here").exists(), False)
    case.at_most("peak MB", peak_mb, PARSE_MB)


def test_r23_what_expands_is_refused_at_a_named_bound(case: Case, tmp_path: Path) -> None:
    many, short = tmp_path / "rates.csv.gz", tmp_path / "day.csv.gz"
    with gzip.open(many, "wt") as file:
        file.write("rate_rps\n" + "1\n" * 2_000_000)
    with gzip.open(short, "wt") as file:
        file.write("rate_rps\n" + "".join(f"{math.sin(at / 999) + 2:.2f}\n" for at in range(86_400)))
    keys = tmp_path / "pipeline.yaml"
    keys.write_text("".join(f"k{at}: 1\n" for at in range(90_000)))
    case.note("packed bytes", many.stat().st_size)
    with pytest.raises(InputError, match="unpacks to more than 100 times its size"):
        read_trace(many)
    case.equal("rates of a day", len(read_trace(short)), 86_400)
    case.equal(
        "problems", problems_of(lambda: load_pipeline(keys)), ["20001:1 / more than 20000 keys; use fewer"]
    )


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER ipa_x AFTER INSERT ON ipa_entries BEGIN DELETE FROM ipa_state; END",
        "CREATE TRIGGER ipa_x BEFORE INSERT ON ipa_state BEGIN SELECT RAISE(ABORT, 'x') WHERE 0; "
        "DELETE FROM ipa_entries; SELECT RAISE(ABORT, ''); END",
        "CREATE VIEW ipa_view AS SELECT * FROM ipa_state",
        "CREATE VIRTUAL TABLE ipa_search USING fts5(words)",
    ],
)
def test_r23_a_backup_with_statements_of_its_own_is_refused(
    case: Case, tmp_path: Path, statement: str
) -> None:
    settings, backup = Settings(store_url=f"sqlite:///{tmp_path}/a.sqlite3"), tmp_path / "backup"
    open_store(settings.store_url).close()
    back_up(settings, backup, lambda words, done: None)
    restored = Settings(store_url=f"sqlite:///{tmp_path}/b.sqlite3")
    restore(restored, backup, lambda words, done: None)
    with closing(sqlite3.connect(backup)) as connection:
        connection.execute(statement)
        connection.commit()
    with pytest.raises(InputError, match="which no store of ipa has"):
        restore(restored, backup, lambda words, done: None)
    case.note("statement", statement.split(" ON ", maxsplit=1)[0])


@pytest.mark.live
def test_i2_yaml_bombs_are_refused_soon(case: Case, tmp_path: Path) -> None:
    took_s = []
    path = tmp_path / "pipeline.yaml"
    for bomb in BOMBS.values():
        path.write_bytes(bomb)
        began_s = perf_counter()
        problems_of(lambda: load_pipeline(path))
        took_s.append(perf_counter() - began_s)
    case.at_most("parse s max", max(took_s), PARSE_S)


def test_i2_a_byte_order_mark_is_no_fault(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(GOOD["pipeline"][0]).encode())
    case.equal("problems", len(problems_of(lambda: load_pipeline(path))), 0)


def test_i4_paths_in_names_and_links_of_files(case: Case, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for kind in ("pipeline", "profile"):
        folder = outside / kind / "shop"
        folder.mkdir(parents=True)
        name = "pipeline" if kind == "pipeline" else "detect"
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(GOOD[kind][0], sort_keys=False))
    read = 0
    homes = tmp_path / "pipelines", tmp_path / "profiles"
    for home in homes:
        home.mkdir()
    # The folder a link, then the file a link.
    for at in range(2):
        for home, kind, name in zip(homes, ("pipeline", "profile"), ("pipeline", "detect"), strict=True):
            link = home / "shop"
            if at == 0:
                link.symlink_to(outside / kind / "shop")
            else:
                link.unlink()
                link.mkdir()
                (link / f"{name}.yaml").symlink_to(outside / kind / "shop" / f"{name}.yaml")
        loads: list[Callable[[], object]] = [
            lambda: load_pipelines(homes[0]),
            lambda: load_profiles(homes[1], "shop"),
        ]
        for call in loads:
            problems = problems_of(call)
            read += not any("leads out of" in problem for problem in problems)
    for name in ("../outside/profile/shop", "..", ".", "/etc", "shop\0", "SHOP", "", "C:\\x", "shop/../shop"):
        with pytest.raises(InputError):
            load_profiles(homes[1], name)
    refused = 0
    wrong_names = ("../x", "a/b", "..", "A", "-a", "a" * 64, "a.b", "a\\b", "con ", "ä")
    for name in wrong_names:
        data = copy.deepcopy(GOOD["pipeline"][0])
        data["name"] = name
        path = tmp_path / "named.yaml"
        path.write_text(yaml.safe_dump(data, allow_unicode=True))
        refused += any("/name" in problem for problem in problems_of(lambda path=path: load_pipeline(path)))
    case.equal("names refused", refused, len(wrong_names))
    case.equal("files read outside root", read, 0)


SMALL = """
apiVersion: ipa/v1
kind: Pipeline
name: {name}
sla: {{latency: 1s}}
graph: [only]
objectives: {{default: {{}}}}
stages:
  - {{name: only, variants: [{{name: small}}]}}
"""


@pytest.mark.live
@pytest.mark.usefixtures("remembered")
def test_i5_a_thousand_pipelines(case: Case, tmp_path: Path) -> None:
    for at in range(1000):
        folder = tmp_path / f"p{at}"
        folder.mkdir()
        (folder / "pipeline.yaml").write_text(SMALL.format(name=f"p{at}"))
    before_mb = psutil.Process().memory_info().rss / 1e6
    began_s = perf_counter()
    case.equal("pipelines read", len(load_pipelines(tmp_path)), 1000)
    case.at_most("reading s", perf_counter() - began_s, 60.0)
    took_s = []
    loops: list[Scenario] = [scenario(25.0) for _ in range(1000)]
    for made in loops:
        began_s = perf_counter()
        made.loop.tick_once()
        took_s.append(perf_counter() - began_s)
    case.at_most("RSS grown by MB", psutil.Process().memory_info().rss / 1e6 - before_mb, 500.0)
    case.equal("loops that wrote", sum(len(made.workload.writes) for made in loops), 1000)
    case.at_most("tick s p99", sorted(took_s)[989], loops[0].settings.tick_s)


def test_i5_graphs_that_are_none(case: Case) -> None:
    """Cycles, stages that are not connected or not known, too many ways."""
    graphs = [path for path in BROKEN if path.name.startswith("pipeline-graph") or "graph" in path.name]
    refused = sum(bool(problems_of(lambda path=path: load(path))) for path in graphs)
    case.note("graphs", len(graphs))
    assert any("cycle" in path.name for path in graphs)
    case.equal("refused", refused, len(graphs))


def test_i6_a_mutation_names_its_key(case: Case, tmp_path: Path) -> None:
    """Every key deleted, misspelt, and given values of other kinds: the problem is told where it is."""
    refused = precise = 0

    for kind, place in SCHEMA_KEYS:
        deleted = copy.deepcopy(GOOD[kind][0])
        parent_of(deleted, place).pop(place[-1])
        misspelt = copy.deepcopy(GOOD[kind][0])
        holder = parent_of(misspelt, place)
        holder[f"{place[-1]}z"] = holder.pop(place[-1])
        nearest = f"unknown key '{place[-1]}z'; did you mean '{place[-1]}'?"
        for data, words in ((deleted, str(place[-1])), (misspelt, nearest)):
            problems = problems_in(kind, data, tmp_path)
            refused += bool(problems)
            precise += bool(problems) and any(words in problem.message for problem in problems)
            assert all(problem.line >= 1 and problem.column >= 1 for problem in problems)
    for kind, place in ALL_PLACES:
        here, above = to_json_pointer(place), to_json_pointer(place[:-1])
        for value in REPLACEMENTS:
            altered = copy.deepcopy(GOOD[kind][0])
            parent_of(altered, place)[place[-1]] = value
            problems = problems_in(kind, altered, tmp_path)
            refused += bool(problems)
            places = (here, *ECHOES.get(str(place[0]), ()))
            precise += bool(problems) and all(
                problem.line >= 1 and (problem.pointer == above or problem.pointer.startswith(places))
                for problem in problems
            )
    case.note("mutations that are refused", refused)
    case.equal("precise messages %", 100.0 * precise / refused, 100.0)


def test_i6_the_files_of_the_repository_are_good(case: Case, root: Path) -> None:
    pipelines = load_pipelines(root / "pipelines")
    profiles = [load_profile(path) for path in (root / "profiles").glob("*/*.yaml")]
    case.note("files", len(pipelines) + len(profiles))
    checked = check_files((), root / "pipelines", root / "profiles")
    case.equal("problems", sum(len(each.problems) for each in checked), 0)


def test_i6_whatever_is_wrong_is_an_error_of_ours(case: Case, tmp_path: Path) -> None:
    """Half of a good file, cut at every place: refused or good, never an exception of another kind."""
    text = yaml.safe_dump(GOOD["graph"][0], sort_keys=False)
    path, others = tmp_path / "pipeline.yaml", []
    for at in range(0, len(text), 7):
        path.write_text(text[:at])
        try:
            load_pipeline(path)
        except IpaError as error:
            assert not re.search(r"Traceback|<class", str(error))
        except Exception as error:
            others.append(repr(error))
    case.note("cuts", len(range(0, len(text), 7)))
    case.equal("other exceptions", others, [])
