"""Edits of the files of running pipelines: noticed, checked, and taken or refused while all runs on."""

from __future__ import annotations

import logging
import pwd
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from ipa.adapters.store.state import PipelineRows
from ipa.control.canonical import canonical_json, digest
from ipa.control.ports import Attribution, ControlAction
from ipa.files import load_pipeline, load_pipelines, load_profiles, pipeline_from_mapping, pipeline_to_mapping
from ipa.files.changes import changes_of, wishes_of, with_wishes
from ipa.files.document import check_within
from ipa.files.pipelines import FILE_NAME
from ipa.model.errors import (
    ConflictError,
    InProgressError,
    InputError,
    IpaError,
    NotFoundError,
    UnavailableError,
)
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.service.service import EditState, PipelineEdit

log = logging.getLogger("ipa.edits")
# A file that was written a moment ago may be only half of it.
SETTLE_S = 0.5
API = "API"

Profiles = Mapping[str, StageProfile]
# Of each file: its path, modification time, size and inode.
Stamp = tuple[tuple[str, int, int, int], ...]


class EditedRoster(Protocol):
    """The running pipelines, as far as an edit concerns them."""

    @property
    def pipelines(self) -> Mapping[str, Pipeline]:
        """Every pipeline."""

    @property
    def profiles(self) -> Mapping[str, Profiles]:
        """The profiles by pipeline and stage."""

    def exchange(
        self, pipeline: Pipeline, profiles: Profiles, said: Attribution, keep: Callable[[], None]
    ) -> None:
        """Control the pipeline as it is now; `keep` stores what the next start must know."""


@dataclass(slots=True)
class PipelineFiles:
    """The files of pipelines and of their profiles, and their states when they were read last."""

    pipelines_dir: Path
    profiles_dir: Path
    stamps: dict[str, Stamp] = field(default_factory=dict)

    def load(self) -> dict[str, Pipeline]:
        """Every pipeline by its name. InputError lists the problems of all of them."""
        # Before they are read: an edit meanwhile is noticed at the first look.
        names = sorted(path.parent.name for path in self.pipelines_dir.glob(f"*/{FILE_NAME}"))
        self.stamps = {name: self.stamp(name) for name in names}
        return load_pipelines(self.pipelines_dir)

    def path(self, name: str) -> Path:
        """The file of the pipeline."""
        return self.pipelines_dir / name / FILE_NAME

    def stamp(self, name: str) -> Stamp:
        """The state of the pipeline's files, which changes when one is written, added or removed."""
        found = []
        for path in (self.path(name), *sorted((self.profiles_dir / name).glob("*.yaml"))):
            with suppress(OSError):
                seen = path.stat()
                found.append((str(path), seen.st_mtime_ns, seen.st_size, seen.st_ino))
        return tuple(found)

    def read(self, name: str) -> tuple[Pipeline, Profiles]:
        """The pipeline and its profiles. InputError lists every problem; NotFoundError: its file is gone."""
        path = self.path(name)
        check_within(path, self.pipelines_dir)
        pipeline = load_pipeline(path)
        if pipeline.name != name:
            raise InputError(f"{path} names the pipeline {pipeline.name!r}; its folder is {name!r}")
        try:
            return pipeline, load_profiles(self.profiles_dir, name)
        except NotFoundError:
            return pipeline, {}

    def editor(self, name: str) -> tuple[str, str]:
        """The path of a file that has changed since it was read last, and the name of its owner."""
        changed = [each for each in self.stamp(name) if each not in self.stamps.get(name, ())]
        path = Path(max(changed, key=lambda each: each[1])[0]) if changed else self.path(name)
        owner = ""
        with suppress(OSError, KeyError):
            owner = pwd.getpwuid(path.stat().st_uid).pw_name
        return str(path), owner


@dataclass(frozen=True, slots=True)
class _Pushed:
    """The SLA, bounds and objectives that were given over the API in place of a file's.

    They count until the file's own change: `of_file` is the digest of these.
    """

    of_file: str
    wishes: Mapping[str, Any]
    by: str
    at: str
    changes: tuple[str, ...]

    def over(self, pipeline: Pipeline) -> Pipeline | None:
        """The pipeline with them; None if its file has changed its own since."""
        mapping = pipeline_to_mapping(pipeline)
        if _digest_of_wishes(mapping) != self.of_file:
            return None
        return pipeline_from_mapping(with_wishes(mapping, self.wishes))


def _in_a_line(error: IpaError) -> str:
    """The message, the problems and the hint of the error."""
    lines = [line.strip() for line in str(error).splitlines()]
    # Problems with a place say more than how many there are.
    has_places = bool(error.problems) and all(problem.path for problem in error.problems)
    return "; ".join(lines[1:] if has_places else lines)


def _digest_of_wishes(mapping: Mapping[str, Any]) -> str:
    return digest(canonical_json(wishes_of(mapping)))


@dataclass
class FileEdits:
    """The edits of pipelines that come from files, and what was pushed over them; of one thread at a time.

    A broken edit changes nothing: the version before it stays in force, and `latest` says why.
    """

    files: PipelineFiles
    given: PipelineRows
    now: Callable[[], datetime]
    wall_s: Callable[[], float] = time.time
    _latest: dict[str, PipelineEdit] = field(default_factory=dict)
    # The pipelines as their files have them, without what was pushed.
    _bases: dict[str, Pipeline] = field(default_factory=dict)
    _pushed: dict[str, _Pushed] = field(default_factory=dict)

    def started(self, found: Mapping[str, Pipeline]) -> dict[str, Pipeline]:
        """The pipelines of the files, with what was pushed over them."""
        self._bases = dict(found)
        self._read_pushed()
        return {name: self._effective(name, pipeline) for name, pipeline in found.items()}

    def latest(self, name: str) -> PipelineEdit | None:
        """The latest edit of the pipeline; None if there was none."""
        return self._latest.get(name)

    def look(self, roster: EditedRoster) -> None:
        """Take, or refuse, the edits of files since the last look. Nothing is raised."""
        for name in sorted(self._bases):
            stamp = self.files.stamp(name)
            if stamp == self.files.stamps.get(name) or self._is_fresh(stamp):
                continue
            try:
                self._edited(roster, name)
            except (InProgressError, UnavailableError) as error:
                self._note(name, EditState.WAITING, message=error.message)
                continue
            except IpaError as error:
                self._note(name, EditState.REFUSED, message=_in_a_line(error))
            except Exception as error:
                log.exception("the edit of pipeline %s", name)
                self._note(name, EditState.REFUSED, message=f"{type(error).__name__}: {error}")
            self.files.stamps[name] = stamp

    def push(self, roster: EditedRoster, pipeline: Pipeline, said: Attribution) -> None:
        """Use the SLA, bounds and objectives of `pipeline` in place of those of its file.

        Errors: ConflictError (something else differs, too), and those of `exchange`.
        """
        name, wanted = pipeline.name, pipeline_to_mapping(pipeline)
        base = pipeline_to_mapping(self._bases[name])
        wishes = wishes_of(wanted)
        if others := changes_of(with_wishes(base, wishes), wanted):
            raise ConflictError(
                f"pipeline {name!r} comes from a file; only its SLA, bounds and objectives may be changed "
                f"over the API, not {'; '.join(others)}",
                hint=f"Change {self.files.path(name)}: the change takes effect without a restart.",
            )
        changes = changes_of(pipeline_to_mapping(roster.pipelines[name]), wanted)
        if not changes:
            return
        at = self.now().isoformat()
        pushed = _Pushed(_digest_of_wishes(base), wishes, said.by, at, changes)
        is_as_file = wishes == wishes_of(base)
        roster.exchange(
            pipeline, roster.profiles[name], said, lambda: self._keep(name, None if is_as_file else pushed)
        )
        self._note(name, EditState.TAKEN, source=API, by=said.by, changes=changes)

    def sync(self, roster: EditedRoster, said: Attribution) -> None:
        """Take up what was pushed at another replica."""
        before = dict(self._pushed)
        self._read_pushed()
        for name in self._bases:
            wanted = self._effective(name, self._bases[name])
            if before.get(name) != self._pushed.get(name) and changes_of(
                pipeline_to_mapping(roster.pipelines[name]), pipeline_to_mapping(wanted)
            ):
                try:
                    roster.exchange(wanted, roster.profiles[name], said, lambda: None)
                except IpaError as error:
                    log.warning("a push to %s at another replica is not applied: %s", name, error.message)
                    self._pushed = {**self._pushed, name: before[name]} if name in before else self._pushed

    def _edited(self, roster: EditedRoster, name: str) -> None:
        pipeline, given = self.files.read(name)
        source, by = self.files.editor(name)
        old, profiles = roster.pipelines[name], {**roster.profiles[name], **given}
        pushed = self._pushed.get(name)
        wanted = pushed.over(pipeline) if pushed else None
        keep = (lambda: self._keep(name, None)) if pushed and wanted is None else lambda: None
        wanted = wanted or pipeline
        if wanted.namespace != old.namespace:
            raise ConflictError(
                f"the namespace would change from {old.namespace} to {wanted.namespace}",
                hint="Restart the service: there it is another pipeline, with a record of its own.",
            )
        changes = changes_of(pipeline_to_mapping(old), pipeline_to_mapping(wanted))
        changes += tuple(
            f"profile of {stage}" for stage in given if given[stage] != roster.profiles[name].get(stage)
        )
        if changes:
            why = f"{source}: {'; '.join(changes)}"
            roster.exchange(wanted, profiles, Attribution(ControlAction.EDIT, by, why), keep)
            self._note(name, EditState.TAKEN, source=source, by=by, changes=changes)
        elif (before := self._latest.get(name)) is not None and before.state is not EditState.TAKEN:
            # It is again as it was: there is nothing left to refuse.
            self._latest.pop(name)
        self._bases[name] = pipeline

    def _keep(self, name: str, pushed: _Pushed | None) -> None:
        if pushed is None:
            self.given.forget_pushed(name)
            self._pushed.pop(name, None)
        else:
            self.given.keep_pushed(name, asdict(pushed))
            self._pushed[name] = pushed

    def _read_pushed(self) -> None:
        found = {name: each for name, each in self.given.pushed().items() if name in self._bases}
        self._pushed = {}
        for name, each in found.items():
            self._pushed[name] = _Pushed(**{**each, "changes": tuple(each["changes"])})

    def _effective(self, name: str, pipeline: Pipeline) -> Pipeline:
        """The pipeline with what was pushed over it, if that still counts."""
        pushed = self._pushed.get(name)
        if pushed is None:
            return pipeline
        try:
            found = pushed.over(pipeline)
        except IpaError as error:
            log.warning("a push to %s no longer fits its file: %s", name, error)
            found = None
        if found is None:
            log.info("%s: the file changed after SLA, bounds or objectives were pushed; it applies", name)
            return pipeline
        self._latest[name] = PipelineEdit(EditState.TAKEN, API, pushed.at, pushed.by, pushed.changes)
        return found

    def _is_fresh(self, stamp: Stamp) -> bool:
        newest_s = max((mtime_ns for _, mtime_ns, _, _ in stamp), default=0) / 1e9
        return 0 <= self.wall_s() - newest_s < SETTLE_S

    def _note(self, name: str, state: EditState, **told: Any) -> None:
        """Keep what became of the edit, and log it once."""
        edit = PipelineEdit(
            state, at=self.now().isoformat(), **{"source": str(self.files.path(name)), **told}
        )
        before = self._latest.get(name)
        self._latest[name] = edit
        if before is not None and replace(before, at=edit.at) == edit:
            return
        if state is EditState.TAKEN:
            log.info("%s: changed by %s (%s): %s", name, edit.by or "someone", edit.source, edit.words)
        elif state is EditState.WAITING:
            log.info("%s: an edit of %s waits: %s", name, edit.source, edit.message)
        else:
            log.warning(
                "%s: an edit of %s is refused, the former one applies: %s", name, edit.source, edit.message
            )
