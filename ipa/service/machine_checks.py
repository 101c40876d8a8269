"""Checks of this machine for `ipa doctor`: files, profiles, solvers, the port, model servers, manifests."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from ipa.files import load_profiles
from ipa.files.check import Checked, check_files
from ipa.model.errors import IpaError, LicenceError, NotFoundError, Problem, SolverError
from ipa.model.findings import Finding, fail, ok, warn
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.settings import Settings

# Of many problems, this many are named.
FEW = 3


def files_findings(settings: Settings) -> Iterator[Finding]:
    """Check that every pipeline and profile file can be used."""
    folders = (settings.pipelines_dir, settings.profiles_dir)
    for folder, variable in zip(folders, ("IPA_PIPELINES_DIR", "IPA_PROFILES_DIR"), strict=True):
        if not folder.is_dir():
            yield fail("files", f"there is no folder {folder}", f"ipa init NAME; or export {variable}=FOLDER")
            return
    checked = check_files([], *folders)
    bad = [each for each in checked if each.problems]
    if not checked:
        yield fail("files", f"there is no pipeline in {settings.pipelines_dir}", "ipa init NAME")
    elif bad:
        problems = [problem for each in bad for problem in each.problems]
        yield fail(
            "files", f"{len(bad)} of {len(checked)} files cannot be used: {_some(problems)}", "ipa validate"
        )
    else:
        yield ok("files", f"{_kinds(checked)} can be used")


def _kinds(checked: Sequence[Checked]) -> str:
    pipelines = sum(each.pipeline is not None for each in checked)
    return f"{pipelines} pipelines and {len(checked) - pipelines} profiles"


def _some(problems: Sequence[Problem | str]) -> str:
    """The first few, and how many more there are."""
    more = f"; and {len(problems) - FEW} more" if len(problems) > FEW else ""
    return "; ".join(map(str, problems[:FEW])) + more


def profile_findings(settings: Settings, pipeline: Pipeline, today: date) -> Iterator[Finding]:
    """Check the pipeline's profiles: the variants measured, the fit, and the age."""
    from ipa.profiling.findings import OLD, age_days, is_old, unmeasured

    name, measure = f"profiles of {pipeline.name}", f"ipa profile {pipeline.name} --write"
    try:
        profiles = load_profiles(settings.profiles_dir, pipeline.name)
    except NotFoundError:
        yield fail(name, f"there are none in {settings.profiles_dir}", measure)
        return
    missing = [_named(*each) for each in unmeasured(pipeline.served, profiles)]
    if missing:
        yield fail(name, f"not measured: {_some(missing)}", measure)
    else:
        variants = sum(len(stage.variants) for stage in pipeline.served)
        yield ok(name, f"all {variants} variants of {len(pipeline.served)} stages are measured")
    used = {stage.name: profiles[stage.name] for stage in pipeline.served if stage.name in profiles}
    old = [
        f"{stage} {age_days(profile, today)} days"
        for stage, profile in used.items()
        if is_old(profile, today)
    ]
    if old:
        yield warn(f"age of {name}", f"older than {OLD.days} days: {_some(old)}", measure)
    poor = [remark for stage, profile in used.items() for remark in _poor(stage, profile)]
    if poor:
        remedy = f"ipa fit {pipeline.name}; {measure}"
        yield warn(f"fit of {name}", f"poor fits: {_some(poor)}", remedy)


def _named(stage: str, variant: str | None) -> str:
    """An unmeasured stage or variant, in words."""
    return f"stage {stage}" if variant is None else f"{stage} {variant}"


def _poor(stage: str, profile: StageProfile) -> Iterator[str]:
    from ipa.profiling.lint import Oddity, lint_profile

    for remark in lint_profile(profile):
        if remark.oddity is Oddity.POOR_FIT:
            yield f"{stage} {remark.variant} ({remark.detail})"


def solver_findings(settings: Settings) -> Iterator[Finding]:
    """Check each solver by a plan of the packaged example."""
    from ipa.files.packaged import packaged_example
    from ipa.optimize.solver_selection import BACKENDS
    from ipa.policies.planning import plan_pipeline

    pipeline, profiles = packaged_example()
    objectives = {}
    for solver in BACKENDS:
        name = f"solver {solver}"
        is_needed = settings.solver == solver
        missing, remedy = (fail if is_needed else warn), "export IPA_SOLVER=highs" if is_needed else ""
        try:
            plan = plan_pipeline(
                pipeline, profiles, 10.0, solver=solver, deadline_s=settings.solver_deadline_s
            )
        except (LicenceError, ImportError) as error:
            yield missing(name, f"not to be used: {error}", remedy or "grbgetkey KEY, or leave it to HiGHS")
        except (SolverError, IpaError) as error:
            yield missing(
                name, f"it fails: {error}", remedy or f"pip install --force-reinstall {_package(solver)}"
            )
        else:
            objectives[solver] = plan.objective
            yield ok(
                name, f"{plan.termination}, objective {plan.objective:.6g}, {1000 * plan.solve_s:.0f} ms"
            )


def _package(solver: str) -> str:
    return {"gurobi": "gurobipy", "highs": "highspy"}.get(solver, "ipa-serving")


def port_findings(settings: Settings) -> Iterator[Finding]:
    """Check that the service can listen on its address."""
    name, place = "port", f"{settings.host}:{settings.port}"
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            remedy = "export IPA_PORT=8081"
            yield warn(name, f"{place} cannot be listened on: {error.strerror}", remedy)
            return
    yield ok(name, f"{place} is free")


def gitops_findings(settings: Settings) -> Iterator[Finding]:
    """Check that there is a folder to write for a GitOps tool."""
    folder = Path(settings.gitops_dir)
    if not settings.gitops_dir or not folder.is_dir():
        yield fail("gitops", f"{settings.gitops_dir!r} is no folder", "export IPA_GITOPS_DIR=FOLDER")
    elif settings.gitops_branch and not (folder / ".git").exists():
        yield fail("gitops", f"{folder} is no git repository", f"git clone URL {folder}")
    else:
        yield ok("gitops", f"plans are written to {folder / settings.gitops_path}")
