"""The checks of `ipa doctor`: run all at once, each for a limited time; and the checks of this machine."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

from ipa.files import load_profiles
from ipa.files.check import check_files
from ipa.model.errors import IpaError, LicenceError, NotFoundError, Problem, SolverError
from ipa.model.findings import DoctorCheck, Finding, Severity, fail, failed, ok, warn
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings

# Of many problems, this many are named.
FEW = 3


def run_checks(
    checks: Sequence[DoctorCheck], timeout_s: float, ended: Callable[[str], None] = lambda _: None
) -> list[Finding]:
    """The findings in the order of the checks. A check that takes longer than `timeout_s` fails.

    `ended` receives the name of each check that has ended. Checks run at the same time, in threads that end
    with the process: one that hangs is abandoned.
    """
    results: dict[int, list[Finding]] = {}
    begun_s: dict[int, float] = {}
    answers: queue.Queue[tuple[int, list[Finding]]] = queue.Queue()
    limits_s = [timeout_s if check.timeout_s is None else check.timeout_s for check in checks]
    index = {check.name: at for at, check in enumerate(checks)}

    def look(at: int, check: DoctorCheck) -> None:
        try:
            answers.put((at, list(check.look())))
        except IpaError as error:
            answers.put((at, [failed(check.name, error)]))
        except Exception as error:
            # A bug in one check, or in a library that it calls, must not hide the findings of the others.
            answers.put((at, [fail(check.name, f"the check failed: {type(error).__name__}: {error}")]))

    def settle(at: int, findings: list[Finding]) -> None:
        if at not in results:
            results[at] = findings
            ended(checks[at].name)

    while len(results) < len(checks):
        running = [at for at in begun_s if at not in results]
        for at, check in enumerate(checks):
            before = results.get(index[check.after]) if check.after else []
            is_taken = check.turn and check.turn in {checks[other].turn for other in running}
            if at in results or at in begun_s or before is None or is_taken:
                continue
            if any(each.state is Severity.FAIL for each in before):
                settle(at, [warn(check.name, f"not checked, since {check.after!r} failed")])
                continue
            begun_s[at] = time.monotonic()
            running.append(at)
            threading.Thread(target=look, args=(at, check), name=f"check-{at}", daemon=True).start()
        if not running:
            continue
        due_s = min(begun_s[at] + limits_s[at] for at in running)
        try:
            settle(*answers.get(timeout=max(due_s - time.monotonic(), 0.0)))
        except queue.Empty:
            for at in running:
                if time.monotonic() >= begun_s[at] + limits_s[at]:
                    settle(at, [fail(checks[at].name, f"no answer within {limits_s[at]:g} s")])
    return [finding for at in range(len(checks)) for finding in results[at]]


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
        pipelines = sum(each.pipeline is not None for each in checked)
        profiles = len(checked) - pipelines
        yield ok("files", f"{pipelines} pipelines and {profiles} profiles can be used")


def _some(problems: Sequence[Problem | str]) -> str:
    """The first few problems, and the number of further ones."""
    more = f"; and {len(problems) - FEW} more" if len(problems) > FEW else ""
    return "; ".join(map(str, problems[:FEW])) + more


def profile_findings(settings: Settings, pipeline: Pipeline, today: date) -> Iterator[Finding]:
    """Check the pipeline's profiles: the variants measured, the fit, and the age."""
    from ipa.profiling.findings import (
        OLD,
        Oddity,
        age_days,
        doubts,
        is_old,
        lint_profile,
        measure_command,
        unmeasured,
    )

    name = f"profiles of {pipeline.name}"
    measure = measure_command(pipeline.name, planned_only=not pipeline.runnable)
    try:
        profiles = load_profiles(settings.profiles_dir, pipeline.name)
    except NotFoundError:
        yield fail(name, f"there are none in {settings.profiles_dir}", measure)
        return
    missing = [
        f"stage {stage}" if variant is None else f"{stage} {variant}"
        for stage, variant in unmeasured(pipeline.served, profiles)
    ]
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
    poor = [
        f"{stage} {remark.variant} ({remark.detail})"
        for stage, profile in used.items()
        for remark in lint_profile(profile)
        if remark.kind is Oddity.POOR_FIT
    ]
    doubted = [str(doubt) for doubt in doubts(pipeline.served, used)]
    if doubted or poor:
        faults = _some(doubted) if doubted else f"poor fits: {_some(poor)}"
        yield warn(f"fit of {name}", faults, f"ipa fit {pipeline.name}; {measure}")


def solver_findings(settings: Settings) -> Iterator[Finding]:
    """Check each solver by a plan of the packaged example."""
    from ipa.files.pipelines import packaged_example
    from ipa.optimize.backends.gurobi_licence import own_licence
    from ipa.optimize.registry import BACKENDS
    from ipa.optimize.solve import solve
    from ipa.policies.planning import planning_problem

    problem = planning_problem(*packaged_example(), 10.0)
    for solver in BACKENDS:
        name = f"solver {solver}"
        is_needed = settings.solver == solver
        missing, remedy = (fail if is_needed else warn), "export IPA_SOLVER=highs" if is_needed else ""
        try:
            plan = solve(problem, solver, settings.solver_deadline_s)
        except (LicenceError, ImportError) as error:
            yield missing(
                name, f"cannot be used: {error}", remedy or "grbgetkey KEY, or leave it to label setting"
            )
        except (SolverError, IpaError) as error:
            package = {"gurobi": "gurobipy", "highs": "highspy"}.get(solver)
            anew = "Recreate the environment from the repository."
            if package:
                anew = f"pip install --force-reinstall {package}"
            yield missing(name, f"it fails: {error}", remedy or anew)
        else:
            words = f"{plan.termination}, objective {plan.objective:.6g}, {1000 * plan.solve_s:.0f} ms"
            if solver == "gurobi":
                place = own_licence()
                words += f"; licence: {place or 'of the package, not for production'}"
                words += f"; auto takes {'it where that covers the model' if place else 'label setting'}"
            yield ok(name, words)


def port_findings(settings: Settings) -> Iterator[Finding]:
    """Check that the service can listen on its address."""
    name, place = "port", f"{settings.host}:{settings.port}"
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            remedy = "export IPA_PORT=8081"
            yield warn(name, f"{place} cannot be used:  {error.strerror}", remedy)
            return
    yield ok(name, f"{place} is free")


def gitops_findings(settings: Settings) -> Iterator[Finding]:
    """Check that the clone for the GitOps tool exists, bare or not."""
    folder = Path(settings.gitops_dir)
    if not settings.gitops_dir or not folder.is_dir():
        yield fail("gitops", f"{settings.gitops_dir!r} is not a folder", "export IPA_GITOPS_DIR=FOLDER")
    elif not any((folder / each).exists() for each in (".git", "HEAD")):
        yield fail("gitops", f"{folder} is not a git repository", f"git clone URL {folder}")
    else:
        yield ok("gitops", f"plans are written to {folder / settings.gitops_path}")
