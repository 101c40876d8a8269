"""Every broken file gets exactly its messages, which it lists itself: `#! line:column pointer message`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipa.files import load_pipeline, load_profile, pipeline_from_mapping, profile_in
from ipa.files.document import MAX_PROBLEMS, Document
from ipa.model.errors import InputError, NotFoundError
from tests.fakes.commands import Ipa

BROKEN = sorted((Path(__file__).parents[2] / "fixtures" / "broken").glob("*.yaml"))
# What follows is the parser's own wording, which differs with and without libyaml.
PARSER = "not YAML:"


def load(path: Path) -> object:
    return load_profile(path) if path.name.startswith("profile") else load_pipeline(path)


def expected(path: Path) -> list[str]:
    text = path.read_bytes().decode("utf-8", errors="replace")
    return [line.removeprefix("#! ") for line in text.splitlines() if line.startswith("#! ")]


def without_parser(lines: list[str]) -> list[str]:
    return [line.split(PARSER)[0] for line in lines]


@pytest.mark.parametrize("path", BROKEN, ids=[path.stem for path in BROKEN])
def test_a_broken_file_gets_exactly_its_messages(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(path)
    problems = caught.value.problems
    messages = [f"{p.line}:{p.column} {p.pointer or '/'} {p.message}" for p in problems]
    assert expected(path)
    assert without_parser(messages) == without_parser(expected(path))
    assert {problem.path for problem in problems} == {str(path)}


def test_there_are_many_of_both_kinds() -> None:
    kinds = [path.name.split("-")[0] for path in BROKEN]
    assert kinds.count("pipeline") >= 20
    assert kinds.count("profile") >= 10


def test_the_command_line_shows_all_problems_and_no_traceback(ipa: Ipa) -> None:
    shown = ipa("validate", *map(str, BROKEN), code=65).err
    for path in BROKEN:
        for line in without_parser(expected(path)):
            place, _, message = line.split(" ", 2)
            assert f"{path}:{place}: {message}" in shown


def write(folder: Path, text: str) -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_pipeline(path)
    return str(caught.value)


@pytest.mark.parametrize("text", ["a: &b [1]", "a: *b", "a: &b [*b]", "- &b x"])
def test_anchors_and_aliases_are_refused(tmp_path: Path, text: str) -> None:
    assert re.search(
        r"yaml:1:\d: [&*]b is not allowed; write the value itself", problems_of(write(tmp_path, text))
    )


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    text = "[" * 500 + "]" * 500
    assert "pipeline.yaml:1:21: nested deeper than 20 levels" in problems_of(write(tmp_path, text))
    # libyaml gives up by itself here, with its own words.
    assert "has 1 problem" in problems_of(write(tmp_path, "[" * 100_000))


def test_what_is_no_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        load_pipeline(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="is not a file"):
        load_pipeline(tmp_path)


def test_a_mapping_has_pointers_and_no_lines() -> None:
    with pytest.raises(InputError) as caught:
        pipeline_from_mapping(
            {"apiVersion": "ipa/v1", "kind": "Pipeline", "name": "x", "sla": {"latency": 5}}
        )
    places = {(problem.pointer, problem.line) for problem in caught.value.problems}
    assert ("/sla/latency", 0) in places
    assert ("", 0) in places


@pytest.mark.parametrize("data", [None, [], "text", 5, {"stages": 5}, {"stages": [5], "graph": [[]]}])
def test_no_mapping_at_all_is_an_input_error(data: object) -> None:
    with pytest.raises(InputError):
        pipeline_from_mapping(data)


def test_a_file_of_faults_alone_is_looked_at_no_further() -> None:
    """Listing 90 000 faults would take seconds, in which nothing else runs."""
    variants = [
        {"variant": f"v{n}", "accuracy": 0.5, "points": [{}] * 3000, **{f"k{n}": 1 for n in range(9000)}}
        for n in range(10)
    ]
    with pytest.raises(InputError, match="200 problems or more") as caught:
        profile_in(Document("", {"variants": variants}))
    assert len(caught.value.problems) <= MAX_PROBLEMS
