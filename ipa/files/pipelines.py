"""pipeline.yaml <-> Pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ipa.files.document import Document, check_within, read_document
from ipa.files.dumping import dump_yaml
from ipa.files.faults import check
from ipa.files.graph import FanOut, Node, edges_of, in_order, read_nodes
from ipa.files.kinds.pipeline import EdgeSection, NodeSection
from ipa.files.kinds.targets import check_batches
from ipa.files.meaning import check_pipeline
from ipa.files.reading import is_file
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.pipeline import CombineRule, OutputRows, Pipeline, Stage, StageKind

if TYPE_CHECKING:
    from ipa.files.kinds.pipeline_file import PipelineFile

FILE_NAME = "pipeline.yaml"


def load_pipeline(path: Path) -> Pipeline:
    """The pipeline in the file.

    InputError lists every problem with its line and column; NotFoundError where there is no such file.
    """
    return pipeline_in(read_document(path))


def load_pipelines(folder: Path) -> dict[str, Pipeline]:
    """The pipelines in the sub-folders, by name. InputError lists the problems of all of them at once."""
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {folder}", hint="It is the setting pipelines_dir.")
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
    from ipa.files.kinds.pipeline_file import PipelineFile

    file = check(document, PipelineFile)
    check_pipeline(document)
    document.raise_problems()
    assert file is not None, "without a file there are problems"
    pipeline = _pipeline(file, read_nodes(document.data["graph"]))
    check_batches(document, pipeline)
    document.raise_problems()
    return pipeline


def _pipeline(file: PipelineFile, nodes: Sequence[Node]) -> Pipeline:
    """The pipeline; its stages are each behind those that it comes after, else in the order of the graph."""
    given = file.given()
    given["objectives"] = MappingProxyType(
        {name: replace(each, name=name) for name, each in given["objectives"].items()}
    )
    given["stages"] = _placed(given["stages"], file.fan_outs(), nodes)
    del given["graph"]
    return Pipeline(**given)


def _placed(
    listed: Iterable[Stage], fan_outs: Mapping[str, FanOut], nodes: Sequence[Node]
) -> tuple[Stage, ...]:
    """The stages in their places in the graph; `fan_outs` are those that the stages give."""
    stages = {stage.name: stage for stage in listed}
    by_name = {node.name: node for node in nodes}
    edges = {node.name: edges_of(node, by_name, fan_outs) for node in nodes}
    told = {edge.parent for each in edges.values() for edge in each if _is_varying(edge.fan_out)}
    for name, fan_out in fan_outs.items():
        # No edge says so: it is the last stage, or its edges have fan-outs of their own.
        if _is_varying(fan_out) and name not in told and stages[name].output_rows is None:
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
    """The pipeline as a mapping with the keys of a pipeline file; `pipeline_from_mapping` gives it back."""
    from ipa.files.kinds.pipeline_file import PipelineFile, StageSection

    is_short = pipeline.is_chain and all(stage.kind is StageKind.MODEL for stage in pipeline.stages)
    fan_outs = {edge.parent: edge.fan_out for stage in pipeline.stages for edge in stage.after}
    stages = [
        StageSection.of(stage, fan_out=fan_outs.get(stage.name) if is_short else None)
        for stage in pipeline.stages
        if stage.variants
    ]
    graph = [stage.name for stage in pipeline.stages] if is_short else _nodes(pipeline)
    prices = pipeline.prices if pipeline.prices.is_money else None
    file: PipelineFile = PipelineFile.of(pipeline, graph=graph, stages=stages, prices=prices)
    return dict(file.to_mapping())


def _nodes(pipeline: Pipeline) -> dict[str, NodeSection]:
    """Each stage's node: the fan-out with each edge, the shares with the router."""
    shares: dict[str, dict[str, float]] = {}
    for stage in pipeline.stages:
        for edge in stage.after:
            shares.setdefault(edge.parent, {})[stage.name] = edge.share
    return {
        stage.name: NodeSection.model_construct(
            after={edge.parent: EdgeSection.of(edge) for edge in stage.after} or None,
            type=stage.kind,
            shares=shares.get(stage.name) if stage.kind is StageKind.ROUTER else None,
            accuracy=stage.combine if stage.combine is not CombineRule.PRODUCT else None,
        )
        for stage in pipeline.stages
    }


def dump_pipeline(pipeline: Pipeline) -> str:
    """The text of a pipeline file; `load_pipeline` reads the same pipeline back."""
    return dump_yaml(pipeline_to_mapping(pipeline))


def find_pipeline(name: str, pipelines_dir: Path) -> Pipeline:
    """The pipeline of that name in the folder, or in the file of that path.

    NotFoundError names the pipelines there are.
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
