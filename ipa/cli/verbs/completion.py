"""`ipa completion`: the script that lets a shell complete verbs, options and names of pipelines."""

from __future__ import annotations

from enum import StrEnum

import typer


class CompletionShell(StrEnum):
    """Shells with a completion script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: CompletionShell = typer.Argument(..., help="shell")) -> None:
    """Print the completion script of a shell: verbs, options and names of pipelines.

    bash: ipa completion bash > ~/.local/share/bash-completion/completions/ipa. zsh: ipa completion zsh >
    "${fpath[1]}/_ipa". fish: ipa completion fish > ~/.config/fish/completions/ipa.fish.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    typer.echo(get_completion_script(prog_name="ipa", complete_var="_IPA_COMPLETE", shell=shell.value))
