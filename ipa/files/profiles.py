"""profiles/<pipeline>/<stage>.yaml <-> StageProfile."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ipa.files.document import Document, check_within, parse, read_text
from ipa.files.dumping import FlowMapping, dump_yaml
from ipa.files.meaning import check_profile
from ipa.files.quantities import (
    format_duration,
    format_number,
    format_rate,
    parse_duration_s,
    parse_rate_rps,
    read_beside,
    write_beside,
)
from ipa.files.structure import check_structure
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def load_profile(path: Path) -> StageProfile:
    """The profile in the file.

    InputError lists every problem with its line and column; NotFoundError where there is no such file.
    """
    profile, _ = read_profile(path)
    return profile


def read_profile(path: Path) -> tuple[StageProfile, Document]:
    """As `load_profile`, with the document, which knows where everything stands."""
    document = parse(read_text(path), str(path))
    return profile_in(document), document


def profile_in(document: Document) -> StageProfile:
    """The profile in the document; InputError lists every problem."""
    check_structure(document, "profile")
    check_profile(document)
    document.raise_problems()
    return _profile(document.data)


def load_profiles(folder: Path, pipeline: str) -> dict[str, StageProfile]:
    """The profiles of the pipeline's stages, by stage. InputError lists the problems of all at once."""
    if not _NAME.fullmatch(pipeline):
        raise InputError(f"{pipeline!r} is not the name of a pipeline")
    home = folder / pipeline
    if not _is_folder(home):
        raise NotFoundError(
            f"there are no profiles of {pipeline!r} in {folder}",
            hint=f"Measure them with `ipa profile {pipeline}`, or set profiles_dir.",
        )
    profiles: dict[str, StageProfile] = {}
    problems: list[Problem] = []
    for path in sorted(home.glob("*.yaml")):
        try:
            check_within(path, folder)
            profile = load_profile(path)
        except InputError as error:
            problems.extend(error.problems or [Problem(error.message, str(path))])
            continue
        where = f"{profile.pipeline}/{profile.stage}.yaml"
        if (profile.pipeline, profile.stage) != (pipeline, path.stem):
            problems.append(Problem(f"this is the profile of {where}; move it or correct it", str(path)))
        profiles[profile.stage] = profile
    if problems:
        raise InputError(f"{home} has profiles that cannot be used", problems=problems)
    return profiles


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _profile(data: Mapping[str, Any]) -> StageProfile:
    return StageProfile(
        pipeline=data["pipeline"],
        stage=data["stage"],
        variants=tuple(_variant(variant) for variant in data["variants"]),
        hardware=data["hardware"],
        measured_on=date.fromisoformat(data["measured_on"]),
        method=data["method"],
        source=data.get("source", ""),
        load_rps=parse_rate_rps(data["load"]) if "load" in data else None,
    )


def _variant(data: Mapping[str, Any]) -> VariantProfile:
    return VariantProfile(
        variant=data["variant"],
        accuracy=float(data["accuracy"]),
        points=tuple(_point(point) for point in data["points"]),
        readiness_s=parse_duration_s(data["readiness"]) if "readiness" in data else None,
        rows_per_item=_rows(data["rows_per_item"]) if "rows_per_item" in data else None,
        **read_beside(data),
    )


def _rows(data: Sequence[Any]) -> tuple[int, int]:
    least, most = (int(each) for each in data)
    return least, most


def _point(data: Mapping[str, Any]) -> ProfilePoint:
    return ProfilePoint(
        cores=float(data["cores"]),
        batch_size=int(data["batch"]),
        latency_s=parse_duration_s(data["latency"]),
        latency_mean_s=parse_duration_s(data["latency_mean"]) if "latency_mean" in data else None,
        throughput_rps=parse_rate_rps(data["throughput"]) if "throughput" in data else None,
    )


def dump_profile(profile: StageProfile) -> str:
    """The text of a profile file; `load_profile` reads the same profile back, to the last bit."""
    data = {
        "apiVersion": "ipa/v1",
        "kind": "Profile",
        "pipeline": profile.pipeline,
        "stage": profile.stage,
        "hardware": profile.hardware,
        "measured_on": profile.measured_on.isoformat(),
        "method": profile.method,
    }
    if profile.source:
        data["source"] = profile.source
    if profile.load_rps is not None:
        data["load"] = format_rate(profile.load_rps)
    variants = [_variant_mapping(variant) for variant in profile.variants]
    return dump_yaml(data) + dump_yaml({"variants": variants})


def _variant_mapping(variant: VariantProfile) -> dict[str, Any]:
    data: dict[str, Any] = {"variant": variant.variant, "accuracy": format_number(variant.accuracy)}
    if variant.readiness_s is not None:
        data["readiness"] = format_duration(variant.readiness_s)
    data |= write_beside(variant)
    if variant.rows_per_item is not None:
        data["rows_per_item"] = list(variant.rows_per_item)
    data["points"] = [FlowMapping(_point_mapping(point)) for point in variant.points]
    return data


def _point_mapping(point: ProfilePoint) -> dict[str, Any]:
    data: dict[str, Any] = {
        "cores": format_number(point.cores),
        "batch": point.batch_size,
        "latency": format_duration(point.latency_s),
    }
    if point.latency_mean_s is not None:
        data["latency_mean"] = format_duration(point.latency_mean_s)
    if point.throughput_rps is not None:
        data["throughput"] = format_rate(point.throughput_rps)
    return data
