"""`ipa --help`: every verb is in a group, and its examples are command lines that it takes."""

from __future__ import annotations

import shlex

import pytest
import typer

from ipa.cli.main import build_app
from ipa.cli.verb_help import GROUPS
from tests.fakes.commands import Ipa
from tests.unit.cli.test_cli_alike import COMMANDS

# Their examples; before them the name of the module.
VERBS = {verb: about[1:] for verbs in GROUPS.values() for verb, about in verbs.items()}
# Groups of verbs have no examples of their own.
PARENTS = {verb.split()[0] for verb in VERBS if " " in verb}


def test_every_verb_is_in_one_group() -> None:
    assert sum(len(verbs) for verbs in GROUPS.values()) == len(VERBS)
    assert VERBS.keys() - PARENTS == COMMANDS.keys()


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - PARENTS))
def test_examples_are_lines_that_the_verb_takes(verb: str) -> None:
    command = typer.main.get_command(build_app())
    assert VERBS[verb], f"ipa {verb} has no example"
    for example in VERBS[verb]:
        assert example.startswith(f"ipa {verb}")
        words = shlex.split(example.partition(" | ")[0].partition(" > ")[0])[1:]
        here, context = command, typer.Context(command, info_name="ipa")
        for name in verb.split():
            here = here.get_command(context, name)  # type: ignore[attr-defined]
        # Parses every option and argument, and raises what the shell would print.
        here.make_context(verb, words[len(verb.split()) :], parent=context)


def test_help_shows_the_groups_and_the_examples(ipa: Ipa, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv("COLUMNS", "100")
    shown = ipa("--help").out
    places = [shown.index(f" {group} ") for group in GROUPS]
    assert places == sorted(places)
    assert "ipa plan video --rate 20" in ipa("plan", "--help").out
