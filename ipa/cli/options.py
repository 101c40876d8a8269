"""Options that several verbs share, in bundles, their values, and the things that they name.

A verb takes a bundle as a parameter; `ipa.cli.arguments.verb` makes each of its fields an option.
"""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from ipa.cli.arguments import Bundle
from ipa.cli.output import OUTPUT, Output
from ipa.forecast.registry import FORECASTERS
from ipa.model.errors import Problem as Fault
from ipa.model.errors import UsageError
from ipa.optimize.registry import SOLVERS
from ipa.plugins import Registry
from ipa.policies.registry import POLICIES
from ipa.settings import Settings
from ipa.simulate.registry import WORLDS

if TYPE_CHECKING:
    from ipa.clients.http import HttpClient
    from ipa.model.forms import Quantity
    from ipa.model.pipeline import Pipeline
    from ipa.model.profile import StageProfile

E = TypeVar("E", bound=StrEnum)
REFERENCE = "or module:attribute"
# Seconds that a person waits after the tab key.
PATIENCE_S = 0.5
DEFAULT_AT = "http://127.0.0.1:8080"


def complete_pipelines(context: typer.Context) -> list[str]:
    """Names of pipelines: of the files, and of the service if the command has one."""
    from ipa.clients.http import HttpClient
    from ipa.model.errors import IpaError

    pipelines: set[str] = set()
    try:
        folder = Settings.from_env(pipelines_dir=context.params.get("pipelines_dir")).pipelines_dir
        pipelines = {file.parent.name for file in folder.glob("*/pipeline.yaml")}
        at = str(context.params.get("at") or "")
        if at.startswith(("http://", "https://")):
            with HttpClient(at, timeout_s=PATIENCE_S) as service:
                pipelines |= set(service.names())
    except IpaError:
        # The command itself reports the error; a completion cannot.
        pass
    return sorted(pipelines)


def complete_stages(context: typer.Context) -> list[str]:
    """Names of the stages of the pipeline that was typed before."""
    from ipa.files.pipelines import find_pipeline
    from ipa.model.errors import IpaError

    try:
        pipeline = find_pipeline(str(context.params.get("pipeline")), Settings.from_env().pipelines_dir)
    except IpaError:
        return []
    return [stage.name for stage in pipeline.served]


def names(registry: Registry, *without: str) -> str:
    """The built-in names for a help text, which must not depend on installed plug-ins."""
    known = ", ".join(name for name in registry.built_in if name not in without)
    return f"{known}; a plug-in's name, {REFERENCE}"


def option(default: Any, registry: Registry, *flags: str, help_text: str) -> Any:
    """An option that takes a name of the registry, or module:attribute, whose code is then loaded."""

    def admit(name: str | None) -> str | None:
        # Other names are resolved where they are used, so that help reads no package.
        return registry.admit(name) if name and ":" in name else name

    return typer.Option(
        default, *flags, help=help_text, callback=admit, autocompletion=lambda: list(registry)
    )


POLICY = option("ours", POLICIES, "--policy", help_text=f"one of: {names(POLICIES)}")
SHADOW_POLICY = option(
    None, POLICIES, "--shadow-policy", help_text="a second one that only records what it would do"
)
FORECASTER = option(None, FORECASTERS, "--forecaster", help_text=f"one of: {names(FORECASTERS, 'foresight')}")
SOLVER = typer.Option(
    None, "--solver", help=f"one of: {', '.join(SOLVERS)}", autocompletion=lambda: list(SOLVERS)
)
WORLD = typer.Option(
    [],
    "--world",
    help="how the machine differs from the profiles: NAME, or NAME:NUMBER as slow:1.5, of "
    f"{names(WORLDS)}; may be repeated",
    autocompletion=lambda: list(WORLDS),
)
FILE_PIPELINE = typer.Argument(
    metavar="PIPELINE",
    help="name of a folder of pipelines/, or path of a pipeline.yaml",
    autocompletion=complete_pipelines,
)
PIPELINE = typer.Argument(metavar="PIPELINE", help="name of the pipeline", autocompletion=complete_pipelines)
PIPELINE_OR_PLAN = typer.Argument(
    metavar="PIPELINE",
    help="name of the pipeline, or a FILE.json of `ipa plan --out`",
    autocompletion=complete_pipelines,
)
STAGE = typer.Argument(metavar="STAGE", help="stage of the pipeline", autocompletion=complete_stages)
OBJECTIVE = typer.Option(
    None, "--objective", help="objective of the pipeline's file; its default if not given"
)
COMPAT = typer.Option(
    None,
    "--compat",
    help="latency model: tail (the SLA's percentile; the default), paper (for sets) or ipa-artifact",
)
ALLOCATION = typer.Option(
    "free",
    "--allocation",
    help="cores of a replica: free (chosen by the plan) or base (fixed as in the IPA paper)",
)
PLAN_RATE = typer.Option(..., "--rate", help="requests a second to serve")
RATE = typer.Option(
    None, "--rate", help="requests a second to plan for; the forecast of the service if not given"
)
PLAN = typer.Option(None, "--plan", metavar="FILE", help="file of a plan, as `ipa plan -o json` prints it")
DETAILED = typer.Option(
    False, "--detailed-exitcode", help="exit code 2 if the plan differs from the running configuration"
)
AT = typer.Option(
    DEFAULT_AT,
    "--at",
    metavar="WHERE",
    envvar="IPA_AT",
    help="a service's URL",
)
# No default from the variable: a saved plan names its own service.
APPLY_AT = typer.Option(
    None,
    "--at",
    metavar="WHERE",
    help="a service's URL; that of the saved plan, or for any other IPA_AT, if not given",
)
NAMESPACE = typer.Option(
    None,
    "--namespace",
    "-n",
    help="namespace on a cluster, instead of that of the pipeline's file",
)
CONFIRM = typer.Option(False, "--confirm", help="take capacity even while requests are late")
PIPELINES_DIR = typer.Option(
    None, "--pipelines-dir", help="folder of pipelines; IPA_PIPELINES_DIR if not given"
)
PROFILES_DIR = typer.Option(None, "--profiles-dir", help="folder of profiles; IPA_PROFILES_DIR if not given")


def me() -> str:
    """The user name of the person at the command line."""
    return getpass.getuser()


REASON = typer.Option("", "--reason", help="reason, kept with the decision")
BY = typer.Option(
    "",
    "--by",
    callback=lambda by: by or me(),
    show_default=False,
    help="name to record as the author; your user name if not given",
)


@dataclass(frozen=True, slots=True)
class Author(Bundle):
    """The person who makes a change, and the reason."""

    reason: str = REASON
    by: str = BY


@dataclass(frozen=True, slots=True)
class Place(Bundle):
    """A service that a verb reads or changes."""

    output: Output = OUTPUT
    at: str = AT

    def client(self) -> HttpClient:
        """The client of the service."""
        return client_at(self.at)


@dataclass(frozen=True, slots=True)
class FileFolders(Bundle):
    """The folders of the files of pipelines and profiles."""

    pipelines_dir: Path | None = PIPELINES_DIR
    profiles_dir: Path | None = PROFILES_DIR

    @property
    def settings(self) -> Settings:
        """The settings with these folders."""
        return Settings.from_env(pipelines_dir=self.pipelines_dir, profiles_dir=self.profiles_dir)

    def load(self, name: str) -> tuple[Pipeline, dict[str, StageProfile], Settings]:
        """The named pipeline, its profiles by stage, and the settings; NotFoundError lists the names."""
        from ipa.files import load_profiles
        from ipa.files.pipelines import find_pipeline

        settings = self.settings
        pipeline = find_pipeline(name, settings.pipelines_dir)
        return pipeline, load_profiles(settings.profiles_dir, pipeline.name), settings


def client_at(at: str) -> HttpClient:
    """The client of the service, as `ipa.clients.http.client_at` finds it."""
    from ipa.clients import http

    return http.client_at(at)


def duration_s(option: str, text: str) -> float:
    """The seconds of a duration such as 90s; UsageError names the option."""
    from ipa.model.forms import DURATION

    return _quantity(option, text, DURATION, "90s or 30min")


def memory_gib(option: str, text: str) -> float:
    """The GiB of a size such as 64GiB, above 0; UsageError names the option."""
    from ipa.model.forms import MEMORY

    size_gib = _quantity(option, text, MEMORY, "512MiB or 64GiB")
    if not size_gib > 0:
        raise UsageError(f"{option} must be above 0, not {text}")
    return size_gib


def _quantity(option: str, text: str, kind: Quantity, examples: str) -> float:
    try:
        return kind.parse(text)
    except ValueError as error:
        raise UsageError(f"{option} {error}", hint=f"For example {examples}") from error


def rate_range(option: str, text: str) -> tuple[float, float]:
    """The two rates of LOW:HIGH, above 0; UsageError names the option."""
    try:
        low_rps, high_rps = map(float, text.split(":"))
    except ValueError:
        low_rps = high_rps = 0.0
    if not 0 < low_rps <= high_rps < inf:
        raise UsageError(f"{option} {text!r} is not LOW:HIGH, two rates above 0", hint="For example 2:18")
    return low_rps, high_rps


def parse_pairs(
    option: str,
    texts: Sequence[str],
    *,
    kind: str = "PIPELINE",
    known: Sequence[str] = (),
    most: float = inf,
) -> dict[str, float]:
    """The numbers of texts NAME=NUMBER by name, one of `known` if any are; UsageError lists every fault."""
    numbers: dict[str, float] = {}
    faults = []
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            name, value = "", 0.0
        if not name:
            faults.append(f"{text!r} is not {kind}=a number")
        elif not 0 < value <= most or value == inf:
            limit = "finite" if most == inf else f"at most {most:g}"
            faults.append(f"{text!r}: the number must be above 0 and {limit}")
        elif name in numbers:
            faults.append(f"{name!r} is given twice")
        elif known and name not in known:
            faults.append(f"{name!r} is none of: {', '.join(known)}")
        else:
            numbers[name] = value
    if faults:
        raise UsageError(f"{option} has invalid values", problems=[Fault(fault) for fault in faults])
    return numbers


def accelerator_counts(texts: Sequence[str]) -> dict[str, float]:
    """The count of each kind of accelerator; UsageError for anything but KIND=COUNT."""
    counts = {}
    for text in texts:
        kind, _, count = text.rpartition("=")
        if "/" not in kind or not count.isdecimal():
            raise UsageError(
                f"--accelerators {text!r} is not KIND=COUNT",
                hint="For example --accelerators nvidia.com/gpu=4.",
            )
        if kind in counts:
            raise UsageError(f"--accelerators names {kind!r} twice")
        counts[kind] = float(count)
    return counts


def parse_choice(option: str, text: str, kind: type[E]) -> E:
    """The member of that name; UsageError lists the existing ones."""
    if text not in list(kind):
        raise UsageError(f"{option} {text!r} is not known", hint=f"Use one of: {', '.join(kind)}")
    return kind(text)
