"""pipeline.yaml <-> Pipeline, the description of its changes, and the files of a new pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ipa.files.document import Document, check_within, read_document
from ipa.files.forms import (
    FlowMapping,
    check,
    described,
    dump_yaml,
    either,
    file_section,
    schema_text,
    section,
    write,
)
from ipa.files.graph import Arrow, FanOut, Node, as_fan_out, edges_of, in_order, read_nodes
from ipa.files.meaning import check_pipeline
from ipa.files.profiles import load_profiles
from ipa.files.reading import is_file
from ipa.files.targets import check_batches, target_sections
from ipa.model.errors import ConflictError, InputError, NotFoundError, Problem
from ipa.model.forms import (
    ANY,
    END,
    KIND,
    NAME,
    NUMBER,
    POSITIVE,
    PRICE,
    UNIQUE,
    VARIANT_NAME,
    WHOLE,
    Key,
    ValueForm,
    entries,
    format_number,
    mapping,
)
from ipa.model.pipeline import (
    ALL_VARIANTS,
    Bounds,
    Canary,
    CombineRule,
    Fallback,
    Objective,
    OutputRows,
    Pin,
    Pipeline,
    Sla,
    Stage,
    StageBounds,
    StageKind,
    Variant,
)
from ipa.model.probe import PipelineProbe
from ipa.model.profile import StageProfile
from ipa.model.resources import BY_NAME, DIMENSIONS, Prices

FILE_NAME = "pipeline.yaml"
# The pipeline that comes with the package, for `ipa demo`.
EXAMPLE = "video"
EXAMPLE_FILES = Path(__file__).parent / "example"


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def _without(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: each for name, each in given.items() if name not in names}


_FAN_OUT = replace(
    either("a number above 0, or one for each variant", POSITIVE, mapping(VARIANT_NAME, POSITIVE, 1000)),
    write=lambda value: dict(value) if isinstance(value, Mapping) else format_number(value),
)
_EDGE = section(
    "edge",
    Arrow,
    "fan_out",
    dict,
    fan_out=_FAN_OUT.but(description="Replaces that of the stage before."),
)
_NODE = section(
    "node",
    Node,
    "after? kind=type shares combine=accuracy",
    dict,
    after=either(
        "a stage's name, a list of them, or a mapping from each to its fan_out",
        NAME,
        entries(NAME, 100, **UNIQUE),
        mapping(NAME, _EDGE),
    ),
    shares=mapping(
        NAME,
        NUMBER.but(exclusiveMinimum=0, maximum=1),
        title="the share of each stage after this router",
    ),
).but(title="a mapping, such as {after: detect}")
_GRAPH = either(
    "the stages' names in a list, or a mapping from each stage to what it comes after",
    entries(NAME, 100),
    mapping(NAME, _NODE),
).but(
    description="A list is a chain. "
    "Routers and combiners need a mapping of each stage to what it comes after."
)
_RESIDENT = ValueForm(
    {
        "type": ["string", "integer"],
        "title": f"{ALL_VARIANTS}, or a whole number of at least 1",
        "pattern": f"^{ALL_VARIANTS}{END}",
        "minimum": 1,
    }
)
_PRICES = ValueForm(
    {"type": "object", "additionalProperties": False},
    lambda given: Prices({**given.pop("accelerators", {}), **given}, is_money=True),
    lambda prices: {
        **prices.each,
        "accelerators": {kind: price for kind, price in prices.each.items() if kind not in BY_NAME} or None,
    },
    {
        **{
            each.name: Key(each.name, PRICE.but(description=f"Of one {each.unit.removesuffix('s')}."))
            for each in DIMENSIONS
        },
        "accelerators": Key(
            "accelerators",
            mapping(KIND, PRICE, least=0, title="a price for each kind of accelerator").but(
                description="Of one accelerator of the kind."
            ),
        ),
    },
    "prices",
)
_OBJECTIVE = section(
    "objective",
    Objective,
    "goal alpha beta delta accuracy latency_margin_ratio throughput_margin_ratio threshold_rps "
    "max_batch_size max_replicas sla_s max_cost_cores transition_per_core",
    lambda given: Objective(**given.pop("accuracy", {}), **given),
    lambda objective: {**_fields(objective), "accuracy": objective},
    accuracy=section("accuracy", Objective, "accuracy_rule=rule! rank_floor", dict),
)


@cache
def pipeline_form() -> ValueForm:
    """The keys of pipeline.yaml, with one for each target that has a section there."""
    targets = target_sections()
    runs = {key: each.variant for key, each in targets.items() if each.variant is not None}
    places = {
        key: each.pipeline.but(description=each.description)
        for key, each in targets.items()
        if each.pipeline is not None
    }

    def with_targets(given: dict[str, Any]) -> dict[str, Any]:
        return {**_without(given, *targets), "targets": {key: given[key] for key in targets if key in given}}

    variant = section(
        "variant",
        Variant,
        f"name {' '.join(runs)}",
        lambda given: Variant(**with_targets(given)),
        lambda variant: {"name": variant.name, **variant.targets},
        **runs,
    )
    stage = section(
        "stage",
        Stage,
        "name container fan_out output_rows batch_timeout_s resident? bounds? pin? variants",
        lambda given: Stage(**{"container": given["name"], **_without(given, "fan_out")}),
        fan_out=_FAN_OUT.but(description="Items sent on for each item received; 1 if absent."),
        resident=_RESIDENT,
        bounds=section("stage_bounds", StageBounds, "min_replicas max_replicas batch_sizes"),
        pin=section("pin", Pin, "variant batch_size cores replicas"),
        variants=entries(variant, 1000, title="at least one variant"),
    )
    request = mapping(ValueForm({"type": "string"}), ANY, title="the JSON body of a request")
    percent = WHOLE.but(minimum=1, maximum=5)
    probe = {"request": replace(request, make=dict)}
    form = section(
        "pipeline",
        Pipeline,
        "name description? runnable? not_runnable_because? sla drop_after_s fallback probe "
        "canary sets? graph! bounds prices default_objective objectives "
        f"{' '.join(places)} stages",
        with_targets,
        sla=section("sla", Sla, "latency_s percentile", percentile=POSITIVE.but(exclusiveMaximum=100)),
        fallback=section("fallback", Fallback, "rate_rps after_ticks recover_ticks"),
        probe=section("probe", PipelineProbe, "request timeout_s", **probe),
        canary=section("canary", Canary, "share_percent measure_s", share_percent=percent),
        graph=_GRAPH,
        bounds=section(
            "bounds",
            Bounds,
            "cores transition_cores memory_gib accelerators? min_replicas max_replicas batch_sizes "
            "accuracy_floor",
        ),
        prices=_PRICES,
        objectives=mapping(NAME, _OBJECTIVE, title="at least one objective"),
        stages=entries(stage, 100, title="at least one stage"),
        **places,
    )
    return file_section("Pipeline", form)


def load_pipeline(path: Path) -> Pipeline:
    """The pipeline in the file.

    InputError lists every problem with its line and column; NotFoundError if there is no such file.
    """
    return pipeline_in(read_document(path))


def load_pipelines(folder: Path) -> dict[str, Pipeline]:
    """The pipelines in the sub-folders, by name. InputError lists the problems of all of them at once."""
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {folder}", hint="The setting pipelines_dir names it.")
    pipelines: dict[str, Pipeline] = {}
    problems: list[Problem] = []
    for path in sorted(folder.glob(f"*/{FILE_NAME}")):
        try:
            check_within(path, folder)
            pipeline = load_pipeline(path)
        except InputError as error:
            problems.extend(error.problems or [Problem(error.message, str(path))])
            continue
        if pipeline.name != path.parent.name:
            message = f"pipeline {pipeline.name!r} lies in folder {path.parent.name!r}; rename one of them"
            problems.append(Problem(message, str(path), pointer="/name"))
        pipelines[pipeline.name] = pipeline
    if problems:
        raise InputError(f"{folder} has pipelines that cannot be used", problems=problems)
    return pipelines


def pipeline_from_mapping(data: Any) -> Pipeline:
    """The pipeline in a mapping with the keys of a file, such as a request's body; InputError as there."""
    return pipeline_in(Document("", data))


def pipeline_in(document: Document) -> Pipeline:
    """The pipeline in the document; InputError lists every problem."""
    if isinstance(document.data, dict) and document.data.get("max_predictors") == 1:
        # Earlier versions wrote it into every file that they made.
        document.data = _without(document.data, "max_predictors")
    given = check(document, pipeline_form())
    check_pipeline(document)
    document.raise_problems()
    nodes = read_nodes(document.data["graph"])
    fan_outs = {
        entry["name"]: as_fan_out(entry["fan_out"]) for entry in document.data["stages"] if "fan_out" in entry
    }
    named = {name: replace(each, name=name) for name, each in given["objectives"].items()}
    given |= {
        "objectives": MappingProxyType(named),
        # Each behind those that it comes after, else in the order of the graph.
        "stages": _placed(given["stages"], fan_outs, nodes),
    }
    pipeline = Pipeline(**_without(given, "graph"))
    check_batches(document, pipeline)
    document.raise_problems()
    return pipeline


def _placed(
    listed: Iterable[Stage], fan_outs: Mapping[str, FanOut], nodes: Sequence[Node]
) -> tuple[Stage, ...]:
    """The stages with their edges in the graph; `fan_outs` are those that the stages declare."""
    stages = {stage.name: stage for stage in listed}
    by_name = {node.name: node for node in nodes}
    edges = {node.name: edges_of(node, by_name, fan_outs) for node in nodes}
    senders = {edge.parent for each in edges.values() for edge in each if _is_varying(edge.fan_out)}
    for name, fan_out in fan_outs.items():
        # No edge says so: it is the last stage, or its edges have fan-outs of their own.
        if _is_varying(fan_out) and name not in senders and stages[name].output_rows is None:
            stages[name] = replace(stages[name], output_rows=OutputRows.VARYING)
    return tuple(
        replace(
            stages.get(node.name, Stage(node.name, (), container=node.name)),
            after=edges[node.name],
            kind=node.kind,
            combine=node.combine or CombineRule.PRODUCT,
        )
        for node in in_order(nodes)
    )


def _is_varying(fan_out: FanOut) -> bool:
    return any(items != 1 for items in (fan_out.values() if isinstance(fan_out, Mapping) else [fan_out]))


def pipeline_to_mapping(pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline as a mapping with the keys of a pipeline file; `pipeline_from_mapping` reverses it."""
    is_short = pipeline.is_chain and all(stage.kind is StageKind.MODEL for stage in pipeline.stages)
    fan_outs = {edge.parent: edge.fan_out for stage in pipeline.stages for edge in stage.after}
    stages = [
        {
            **_fields(stage),
            "container": stage.container or stage.name,
            "fan_out": fan_outs.get(stage.name) if is_short else None,
        }
        for stage in pipeline.stages
        if stage.variants
    ]
    file = {
        **_fields(pipeline),
        **pipeline.targets,
        "graph": [stage.name for stage in pipeline.stages] if is_short else _nodes(pipeline),
        "stages": stages,
        "prices": pipeline.prices if pipeline.prices.is_money else None,
    }
    return dict(write(pipeline_form(), file))


def _nodes(pipeline: Pipeline) -> dict[str, Node]:
    """Each stage's node, with the fan-out at each edge, and the shares at the router."""
    shares: dict[str, dict[str, float]] = {}
    for stage in pipeline.stages:
        for edge in stage.after:
            shares.setdefault(edge.parent, {})[stage.name] = edge.share
    return {
        stage.name: Node(
            stage.name,
            (),
            {edge.parent: Arrow((), edge.fan_out) for edge in stage.after},
            stage.kind,
            shares.get(stage.name) if stage.kind is StageKind.ROUTER else None,
            stage.combine if stage.combine is not CombineRule.PRODUCT else None,
        )
        for stage in pipeline.stages
    }


def dump_pipeline(pipeline: Pipeline) -> str:
    """The text of a pipeline file; `load_pipeline` reads the same pipeline back."""
    return dump_yaml(pipeline_to_mapping(pipeline))


def find_pipeline(name: str, pipelines_dir: Path) -> Pipeline:
    """The pipeline of that name in the folder, or in the file of that path.

    NotFoundError lists the existing pipelines.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = pipelines_dir / name / FILE_NAME
        if not is_file(path):
            known = sorted(file.parent.name for file in pipelines_dir.glob(f"*/{FILE_NAME}"))
            raise NotFoundError(
                f"there is no pipeline {name!r} in {pipelines_dir}",
                hint=f"There are: {', '.join(known) or 'none'}",
            )
    return load_pipeline(path)


def example_folders() -> tuple[Path, Path]:
    """The folders of pipelines and of profiles of the package's example, laid out as a user's are."""
    return EXAMPLE_FILES / "pipelines", EXAMPLE_FILES / "profiles"


def packaged_example() -> tuple[Pipeline, dict[str, StageProfile]]:
    """The pipeline and its profiles by stage that come with the package."""
    pipelines, profiles = example_folders()
    return load_pipeline(pipelines / EXAMPLE / FILE_NAME), load_profiles(profiles, EXAMPLE)


# Changes named in a message, and characters of a value in it.
MOST_CHANGES, MOST_SHOWN = 20, 60
ABSENT = "absent"


def changes_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that differ, as `sla.latency: 1s → 800ms`; entries of a list have their names as keys."""
    before, after = dict(_leaves("", old)), dict(_leaves("", new))
    keys = [*before, *(key for key in after if key not in before)]
    changes = [
        f"{key}: {before.get(key, ABSENT)} → {after.get(key, ABSENT)}"
        for key in keys
        if before.get(key) != after.get(key)
    ]
    more = len(changes) - MOST_CHANGES
    return (*changes[:MOST_CHANGES], f"and {more} more") if more > 0 else tuple(changes)


def _leaves(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """The values in the tree as text, each with its place."""
    if isinstance(value, list) and value and all(isinstance(it, Mapping) and "name" in it for it in value):
        value = {each["name"]: {key: it for key, it in each.items() if key != "name"} for each in value}
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _leaves(f"{place}.{key}" if place else str(key), each)
        return
    text = str(value)
    yield place, text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


# A model that runs, and the requests to measure it with.
MODEL_FILES = ("runtime.py", "bench.py")
# Beside the folders of pipelines.
SCHEMA = "pipeline.schema.json"
# What is worth what until its owner says: an answer that is right ten, a core a tenth.
USUAL_OBJECTIVE = {"alpha": 10, "beta": 0.1}


def pipeline_text(pipeline: Pipeline, notes: tuple[str, ...] = ()) -> str:
    """The text of a new pipeline file; `notes` are comments at its head.

    Reading it gives the same pipeline, except for the objectives: the file has the default one.
    """
    mapping = pipeline_to_mapping(pipeline)
    mapping.pop("default_objective")
    mapping["objectives"] = {"default": FlowMapping(USUAL_OBJECTIVE)}
    for key in ("sla", "bounds", *target_sections()):
        if key in mapping:
            mapping[key] = FlowMapping(mapping[key])
    lines = [f"# yaml-language-server: $schema=../{SCHEMA}\n"]
    lines += [f"# {note}\n" for note in notes]
    descriptions = {key: text for key, _, text in described(pipeline_form())}
    for key, value in mapping.items():
        if descriptions.get(key):
            lines.append(f"# {descriptions[key]}\n")
        lines.append(dump_yaml({key: value}))
    targets = target_sections()
    if not any(key in targets for stage in mapping["stages"] for it in stage["variants"] for key in it):
        lines.append("# How a variant runs, for example:\n#   - name: small\n")
        lines += [f"#     {name}: {each.example}\n" for name, each in targets.items() if each.example]
    return "".join(lines)


def with_constant_models(mapping: dict[str, Any], pipelines_dir: Path) -> None:
    """Make each variant run on this machine with the constant model that `write_new` writes."""
    module = f"{pipelines_dir.resolve().name}.{mapping['name']}.runtime"
    for stage in mapping["stages"]:
        for variant in stage["variants"]:
            variant["local"] = {"implementation": f"{module}.Constant"}


def write_new(
    pipeline: Pipeline,
    pipelines_dir: Path,
    *,
    notes: tuple[str, ...] = (),
    force: bool = False,
    has_models: bool = False,
    beside: Mapping[Path, str] = MappingProxyType({}),
) -> tuple[Path, ...]:
    """Write the pipeline and the schema that editors check it by; return the paths.

    Unless it `has_models` also runtime.py and bench.py, to measure and run at once. ConflictError, before
    anything is written, if any of these except the schema exists and not `force`. `beside` are the texts of
    other files that are written with them, there or not.
    """
    texts = {pipelines_dir / pipeline.name / FILE_NAME: pipeline_text(pipeline, notes)}
    for name in () if has_models else MODEL_FILES:
        text = EXAMPLE_FILES.joinpath("new", name).with_suffix(".txt").read_text(encoding="utf-8")
        texts[pipelines_dir / pipeline.name / name] = text
    there = [path for path in texts if path.exists()]
    if there and not force:
        raise ConflictError(
            f"pipeline {pipeline.name!r} already has files, which are left as they are",
            problems=[Problem("is there", str(path)) for path in there],
            hint="Choose another name, or overwrite them with --force.",
        )
    texts |= {pipelines_dir / SCHEMA: schema_text("pipeline"), **beside}
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return tuple(texts)
