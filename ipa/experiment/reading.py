"""experiment.yaml: its keys, and the Experiment, with every problem at its line and column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipa.experiment.loads import SLA_PATTERN, SLA_WORDS
from ipa.experiment.runners import AUTHORS, RUNNERS, SIMULATE, Experiment, PipelineArm, WorkloadArm
from ipa.experiment.simulated import QUANTILE, VARIED, listed, setting_of
from ipa.files.document import Document, Pointer, read_document, unknown
from ipa.files.forms import check, either, file_section, section
from ipa.files.pipelines import find_pipeline
from ipa.files.reading import is_file
from ipa.files.traces import trace_file, trace_in
from ipa.forecast.arrivals import WORKLOADS
from ipa.forecast.registry import FORECASTERS
from ipa.model.errors import ConfigurationError, IpaError, PluginError, UsageError
from ipa.model.forms import (
    ANY,
    DURATION,
    NAME,
    NUMBER,
    POSITIVE,
    UNIQUE,
    WHOLE,
    ValueForm,
    entries,
    mapping,
    text,
)
from ipa.plugins import Registry
from ipa.policies.registry import POLICIES
from ipa.simulate.registry import worlds_in

_TEXT = ValueForm({"type": "string"})
_WORD = _TEXT.but(maxLength=60)
_WORDS = entries(_WORD, 50, title="at least one name", **UNIQUE)
_QUESTION = _TEXT.but(maxLength=2000)


def _pipeline_arm(given: str | dict[str, Any]) -> PipelineArm:
    if isinstance(given, str):
        return PipelineArm(given, given)
    return PipelineArm(**{"name": given["pipeline"]} | given)


def _workload_arm(given: str | dict[str, Any]) -> WorkloadArm:
    return WorkloadArm(given, like=given) if isinstance(given, str) else WorkloadArm(**given)


_PIPELINE = _TEXT.but(minLength=1, maxLength=1000, title="a name, or the path of a pipeline.yaml")
_PIPELINE_ARM = section(
    "pipeline_arm",
    PipelineArm,
    "pipeline name objective accuracy_floor cores transition_cores",
    pipeline=_PIPELINE,
    **dict.fromkeys(("name", "objective"), _WORD),
    accuracy_floor=NUMBER.but(minimum=0, maximum=1),
    **dict.fromkeys(("cores", "transition_cores"), POSITIVE),
)
_WORKLOAD_ARM = section(
    "workload_arm",
    WorkloadArm,
    "name like trace shared at scale",
    **dict.fromkeys(("name", "like"), _WORD),
    trace=_TEXT.but(maxLength=1000),
    **dict.fromkeys(("shared", "at"), _TEXT.but(maxLength=200)),
    scale=POSITIVE,
)
# The keys of `quick:`, which the file itself has too.
_RUNS = {
    "minutes": NUMBER.but(exclusiveMinimum=0, maximum=14_400, title="minutes of simulated time"),
    "seeds": entries(
        WHOLE.but(minimum=0, maximum=2**32 - 1), 1000, title="at least one whole number", **UNIQUE
    ),
    "pipelines": entries(
        either(
            "the name of a pipeline, or a mapping with the key pipeline",
            _PIPELINE,
            _PIPELINE_ARM,
            make=_pipeline_arm,
        ),
        100,
        title="at least one pipeline",
    ),
    "workloads": entries(
        either(
            "the name of a workload, or a mapping with the key name",
            _TEXT,
            _WORKLOAD_ARM,
            make=_workload_arm,
        ),
        100,
        title="at least one workload",
    ),
    "slas": entries(text(SLA_PATTERN, SLA_WORDS), 20, title="at least one SLA", **UNIQUE),
    "policies": _WORDS,
    "forecasters": _WORDS,
    "worlds": _WORDS,
    "settings": mapping(_TEXT, ANY, 10_000, 0, title="a mapping"),
}
_KEYS = section(
    "experiment",
    Experiment,
    f"name title question runner spacing interval_s reference {' '.join(_RUNS)} quick",
    dict,
    **_RUNS,
    name=NAME,
    **dict.fromkeys(("title", "question"), _QUESTION),
    **dict.fromkeys(("runner", "reference"), _WORD),
    spacing=_TEXT.but(enum=("poisson", "even", "burst")),
    interval_s=DURATION.form(),
    quick=section("runs", Experiment, " ".join(_RUNS), dict, **_RUNS),
)
_EXPERIMENT = file_section("Experiment", _KEYS)


FILE_NAME = "experiment.yaml"
# The keys that the runner `simulate` needs.
NEEDED = ("pipelines", "workloads", "policies")
_SOURCES = ("like", "trace", "shared")


def find_experiments(folder: Path) -> dict[str, Path]:
    """The experiment files in the sub-folders, by the name of the folder."""
    return {path.parent.name: path for path in sorted(folder.glob(f"*/{FILE_NAME}"))}


def find_experiment(name: str, folder: Path) -> Path:
    """The file of the experiment of that name in the folder, or of that path.

    UsageError lists the existing experiments.
    """
    known = find_experiments(folder)
    if name in known:
        return known[name]
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    raise UsageError(f"there is no experiment {name!r} in {folder}; {unknown(name, known)}")


def load_experiment(
    path: Path, *, pipelines_dir: Path, profiles_dir: Path, quick: bool = False
) -> Experiment:
    """The experiment in the file, in its quick form if asked for.

    InputError lists every problem with its line and column; NotFoundError if there is no such file.
    """
    document = read_document(path)
    given = check(document, _EXPERIMENT)
    if isinstance(document.data, dict):
        _Check(document, path.parent, pipelines_dir).all()
    document.raise_problems()
    shorter = given.pop("quick", {})
    values = given | shorter if quick else given
    values["workloads"] = tuple(
        arm if arm.trace is None else replace(arm, trace=trace_in(path.parent, arm.trace))
        for arm in values.get("workloads", ())
    )
    return Experiment(
        path=path, is_quick=quick, pipelines_dir=pipelines_dir, profiles_dir=profiles_dir, **values
    )


class _Check:
    """Finds faults that a schema cannot express: names that must exist, keys that belong together."""

    def __init__(self, document: Document, folder: Path, pipelines_dir: Path) -> None:
        self.document, self.folder, self.pipelines_dir = document, folder, pipelines_dir

    def all(self) -> None:
        data = self.document.data
        quick = data["quick"] if isinstance(data.get("quick"), dict) else {}
        self._part(data, ())
        self._part(quick, ("quick",))
        if isinstance(data.get("runner"), str):
            self._name(data["runner"], ("runner",), RUNNERS)
        for key in NEEDED if data.get("runner") == SIMULATE else ():
            if key not in data:
                self.document.problem((), f"runner {SIMULATE} needs the key {key!r}; add it")
        reference, policies = data.get("reference"), data.get("policies")
        if isinstance(reference, str) and isinstance(policies, list):
            for place, names in (("policies", policies), ("quick.policies", quick.get("policies"))):
                if isinstance(names, list) and reference not in names:
                    message = f"reference {reference!r} is not among {place}; add it there"
                    self.document.problem(("reference",), message)

    def _part(self, part: dict[str, Any], place: Pointer) -> None:
        self._names(part.get("policies"), (*place, "policies"), POLICIES)
        self._names(part.get("forecasters"), (*place, "forecasters"), FORECASTERS)
        settings = part.get("settings")
        if self.document.data.get("runner") == SIMULATE and isinstance(settings, dict):
            self._settings(settings, part.get("forecasters") or self.document.data.get("forecasters"), place)
        for at, world in _entries(part.get("worlds")):
            self._world(world, (*place, "worlds", at))
        for at, entry in _entries(part.get("pipelines")):
            self._pipeline(entry, (*place, "pipelines", at))
        for at, entry in _entries(part.get("workloads")):
            self._workload(entry, (*place, "workloads", at))
        for key in ("pipelines", "workloads"):
            self._unique(part.get(key), (*place, key))

    def _names(self, names: Any, place: Pointer, known: Registry) -> None:
        """Note unknown names. A name may also be code to load: the file is its user's own."""
        for at, name in _entries(names):
            if isinstance(name, str) and (known, name) != (FORECASTERS, AUTHORS):
                self._name(name, (*place, at), known)

    def _name(self, name: str, place: Pointer, known: Registry) -> None:
        try:
            known.admit(name)
        except UsageError:
            self.document.problem(place, f"there is no {known.kind} {name!r}; {unknown(name, known)}")
        except PluginError as error:
            self.document.problem(place, error.message)

    def _settings(self, settings: dict[str, Any], forecasters: Any, place: Pointer) -> None:
        """Note settings that a simulation does not have, and values that they cannot have."""
        for variable, values in settings.items():
            at = (*place, "settings", variable)
            if variable not in VARIED:
                message = f"{variable} is no setting that can vary; there are: {', '.join(VARIED)}"
                self.document.problem(at, message, at_key=True)
                continue
            if VARIED[variable] == QUANTILE and AUTHORS in (forecasters or ()):
                message = f"forecaster {AUTHORS} has its own {variable}; leave one of them out"
                self.document.problem(at, message, at_key=True)
            made: list[Any] = []
            if not listed(values):
                self.document.problem(at, f"{variable} has no value; give one or several")
            for index, value in enumerate(listed(values)):
                one = (*at, index) if isinstance(values, list) else at
                try:
                    made.append(setting_of(variable, value))
                except ConfigurationError as error:
                    words = "; ".join(each.message for each in error.problems)
                    self.document.problem(one, f"{words}; correct it, or leave it out")
                else:
                    if made[-1] in made[:-1]:
                        self.document.problem(one, f"{variable} has {value} twice; leave one out")

    def _world(self, world: Any, place: Pointer) -> None:
        try:
            for _ in worlds_in(str(world)):
                pass
        except (UsageError, PluginError) as error:
            self.document.problem(place, f"{error.message}. {error.hint}".rstrip())

    def _unique(self, entries: Any, place: Pointer) -> None:
        labels: set[str] = set()
        for at, entry in _entries(entries):
            is_arm = isinstance(entry, dict)
            label = str(entry.get("name", entry.get("pipeline", "")) if is_arm else entry)
            if label in labels:
                message = f"name {label!r} occurs twice; give one of them another `name`"
                self.document.problem((*place, at), message)
            labels.add(label)

    def _pipeline(self, entry: Any, place: Pointer) -> None:
        name = entry.get("pipeline") if isinstance(entry, dict) else entry
        if not isinstance(name, str):
            return
        at = (*place, "pipeline") if isinstance(entry, dict) else place
        known = [path.parent.name for path in sorted(self.pipelines_dir.glob("*/pipeline.yaml"))]
        if name not in known and not name.endswith((".yaml", ".yml")):
            self.document.problem(at, f"there is no pipeline {name!r}; {unknown(name, known)}")
        elif isinstance(entry, dict):
            try:
                pipeline = find_pipeline(name, self.pipelines_dir)
            except IpaError as error:
                self.document.problem(at, f"pipeline {name!r} cannot be read: {error.message}")
                return
            objective = entry.get("objective")
            if isinstance(objective, str) and objective not in pipeline.objectives:
                hint = unknown(objective, pipeline.objectives)
                self.document.problem(
                    (*place, "objective"), f"{pipeline.name} has no objective {objective!r}; {hint}"
                )

    def _workload(self, entry: Any, place: Pointer) -> None:
        like = entry.get("like") if isinstance(entry, dict) else entry
        if isinstance(like, str) and like not in WORKLOADS:
            at = (*place, "like") if isinstance(entry, dict) else place
            self.document.problem(at, f"there is no workload {like!r}; {unknown(like, WORKLOADS)}")
        if isinstance(entry, dict):
            given = [key for key in _SOURCES if key in entry]
            if len(given) != 1:
                has = "none" if not given else " and ".join(given)
                self.document.problem(place, f"expected exactly one of {', '.join(_SOURCES)}; there is {has}")
            name = entry.get("trace")
            if isinstance(name, str) and not is_file(trace_file(trace_in(self.folder, name))):
                file = trace_file(self.folder / name)
                message = f"there is no file {file}; the path starts from this file's folder"
                self.document.problem((*place, "trace"), message)


def _entries(value: Any) -> Iterator[tuple[int, Any]]:
    return enumerate(value) if isinstance(value, list) else iter(())
