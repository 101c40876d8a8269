"""The checks of `ipa doctor`: all at the same time, each for a limited time; and those of this machine."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

from ipa.files import load_profiles
from ipa.files.check import Checked, check_files
from ipa.model.errors import IpaError, LicenceError, NotFoundError, Problem, SolverError
from ipa.model.findings import DoctorCheck, Finding, Severity, fail, failed, ok, warn
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.settings import Settings

# Of many problems, this many are named.
FEW = 3


def run_checks(
    checks: Sequence[DoctorCheck], timeout_s: float, ended: Callable[[str], None] = lambda _: None
) -> list[Finding]:
    """The findings in the order of the checks. A check that takes longer than `timeout_s` fails.

    `ended` receives the name of each check that has ended. Checks run at the same time, in threads that end
    with the process: one that hangs is left behind.
    """
    run, told = _Run(checks, timeout_s), set[str]()
    while not run.is_done:
        run.start()
        run.wait()
        for check, found in zip(checks, run.found, strict=True):
            if found is not None and check.name not in told:
                told.add(check.name)
                ended(check.name)
    return [finding for each in run.found for finding in each or ()]


class _Run:
    """The checks that have begun, their starting times, and their findings."""

    def __init__(self, checks: Sequence[DoctorCheck], timeout_s: float) -> None:
        self.found: list[list[Finding] | None] = [None] * len(checks)
        self._checks, self._timeout_s = checks, timeout_s
        self._index = {check.name: at for at, check in enumerate(checks)}
        self._begun_s: dict[int, float] = {}
        self._ended: queue.Queue[tuple[int, list[Finding]]] = queue.Queue()

    @property
    def is_done(self) -> bool:
        """True if all checks have ended."""
        return all(each is not None for each in self.found)

    def start(self) -> None:
        """Start every check that may start; one whose `after` failed ends with a warning."""
        for at, check in enumerate(self._checks):
            if self.found[at] is not None or at in self._begun_s:
                continue
            before = self.found[self._index[check.after]] if check.after else []
            if before is None or (check.turn and check.turn in self._taken()):
                continue
            if any(each.state is Severity.FAIL for each in before):
                self.found[at] = [warn(check.name, f"not checked, since {check.after!r} failed")]
                continue
            self._begun_s[at] = time.monotonic()
            threading.Thread(target=self._look, args=(at,), name=f"check-{at}", daemon=True).start()

    def wait(self) -> None:
        """Return once another check has ended or is late."""
        running = self._running()
        if not running:
            return
        due_s = min(self._due_s(at) for at in running)
        try:
            at, result = self._ended.get(timeout=max(due_s - time.monotonic(), 0.0))
            if self.found[at] is None:
                self.found[at] = result
        except queue.Empty:
            for at in running:
                if time.monotonic() >= self._due_s(at):
                    late = f"no answer within {self._limit_s(at):g} s"
                    self.found[at] = [fail(self._checks[at].name, late)]

    def _limit_s(self, at: int) -> float:
        own_s = self._checks[at].timeout_s
        return self._timeout_s if own_s is None else own_s

    def _due_s(self, at: int) -> float:
        return self._begun_s[at] + self._limit_s(at)

    def _running(self) -> list[int]:
        return [at for at in self._begun_s if self.found[at] is None]

    def _taken(self) -> set[str]:
        return {self._checks[at].turn for at in self._running()}

    def _look(self, at: int) -> None:
        self._ended.put((at, _looked(self._checks[at])))


def _looked(check: DoctorCheck) -> list[Finding]:
    try:
        return list(check.look())
    except IpaError as error:
        return [failed(check.name, error)]
    except Exception as error:
        # A bug in one check, or in a library that it calls, must not hide the findings of the others.
        return [fail(check.name, f"the check failed: {type(error).__name__}: {error}")]


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
    from ipa.profiling.credibility import doubts
    from ipa.profiling.findings import OLD, age_days, is_old, unmeasured
    from ipa.profiling.remedies import measure_command

    name = f"profiles of {pipeline.name}"
    measure = measure_command(pipeline.name, planned_only=not pipeline.runnable)
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
    doubted = [str(doubt) for doubt in doubts(pipeline.served, used)]
    if doubted or poor:
        seen = _some(doubted) if doubted else f"poor fits: {_some(poor)}"
        yield warn(f"fit of {name}", seen, f"ipa fit {pipeline.name}; {measure}")


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
            yield missing(
                name, f"not to be used: {error}", remedy or "grbgetkey KEY, or leave it to label setting"
            )
        except (SolverError, IpaError) as error:
            yield missing(name, f"it fails: {error}", remedy or _reinstall(solver))
        else:
            objectives[solver] = plan.objective
            yield ok(
                name, f"{plan.termination}, objective {plan.objective:.6g}, {1000 * plan.solve_s:.0f} ms"
            )


def _reinstall(solver: str) -> str:
    package = {"gurobi": "gurobipy", "highs": "highspy"}.get(solver)
    return (
        f"pip install --force-reinstall {package}"
        if package
        else "Recreate the environment from the repository."
    )


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
    """Check that there is a folder to write for a GitOps tool."""
    folder = Path(settings.gitops_dir)
    if not settings.gitops_dir or not folder.is_dir():
        yield fail("gitops", f"{settings.gitops_dir!r} is not a folder", "export IPA_GITOPS_DIR=FOLDER")
    elif settings.gitops_branch and not (folder / ".git").exists():
        yield fail("gitops", f"{folder} is not a git repository", f"git clone URL {folder}")
    else:
        yield ok("gitops", f"plans are written to {folder / settings.gitops_path}")
