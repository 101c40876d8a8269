"""Edits of the files of running pipelines: detected, checked, and applied or refused without a restart."""

from __future__ import annotations

import logging
import pwd
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ipa.control.ports import Attribution, ControlAction
from ipa.files import load_pipeline, load_pipelines, load_profiles, pipeline_to_mapping
from ipa.files.document import check_within
from ipa.files.pipelines import FILE_NAME, changes_of
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

Profiles = Mapping[str, StageProfile]
# Of each file: its path, modification time, size and inode.
Stamp = tuple[tuple[str, int, int, int], ...]
# Controls the pipeline of a file as it is now, or raises an IpaError and changes nothing.
Exchange = Callable[[Pipeline, Profiles, Attribution], None]


@dataclass
class FileEdits:
    """The files of pipelines and of their profiles, their states when read last, and their latest edits.

    Used by one thread at a time. A broken edit changes nothing: the version before it stays in force, and
    `latest` tells why.
    """

    pipelines_dir: Path
    profiles_dir: Path
    now: Callable[[], datetime]
    wall_s: Callable[[], float] = time.time
    _stamps: dict[str, Stamp] = field(default_factory=dict)
    _latest: dict[str, PipelineEdit] = field(default_factory=dict)

    def load(self) -> dict[str, Pipeline]:
        """Every pipeline by its name. InputError lists the problems of all of them."""
        # Taken before the files are read, so that an edit meanwhile is noticed.
        names = sorted(path.parent.name for path in self.pipelines_dir.glob(f"*/{FILE_NAME}"))
        self._stamps = {name: self.stamp(name) for name in names}
        return load_pipelines(self.pipelines_dir)

    def path(self, name: str) -> Path:
        """The file of the pipeline."""
        return self.pipelines_dir / name / FILE_NAME

    def stamp(self, name: str) -> Stamp:
        """The state of the pipeline's files, which changes when one is written, added or removed."""
        stamps = []
        for path in (self.path(name), *sorted((self.profiles_dir / name).glob("*.yaml"))):
            with suppress(OSError):
                state = path.stat()
                stamps.append((str(path), state.st_mtime_ns, state.st_size, state.st_ino))
        return tuple(stamps)

    def latest(self, name: str) -> PipelineEdit | None:
        """The latest edit of the pipeline; None if there was none."""
        return self._latest.get(name)

    def look(
        self, pipelines: Mapping[str, Pipeline], profiles: Mapping[str, Profiles], exchange: Exchange
    ) -> None:
        """Apply, or refuse, the edits of these pipelines since the last call. Nothing is raised."""
        for name in sorted(self._stamps.keys() & pipelines.keys()):
            stamp = self.stamp(name)
            newest_s = max((mtime_ns for _, mtime_ns, _, _ in stamp), default=0) / 1e9
            if stamp == self._stamps[name] or 0 <= self.wall_s() - newest_s < SETTLE_S:
                continue
            try:
                self._take(pipelines[name], profiles[name], exchange)
            except (InProgressError, UnavailableError) as error:
                self._note(name, EditState.WAITING, message=error.message)
                continue
            except IpaError as error:
                self._note(name, EditState.REFUSED, message=_in_a_line(error))
            except Exception as error:
                log.exception("the edit of pipeline %s", name)
                self._note(name, EditState.REFUSED, message=f"{type(error).__name__}: {error}")
            self._stamps[name] = stamp

    def _take(self, old: Pipeline, known: Profiles, exchange: Exchange) -> None:
        name = old.name
        wanted, given = self._read(name)
        if wanted.namespace != old.namespace:
            raise ConflictError(
                f"the namespace would change from {old.namespace} to {wanted.namespace}",
                hint="Restart the service: there it is another pipeline, with a record of its own.",
            )
        changes = changes_of(pipeline_to_mapping(old), pipeline_to_mapping(wanted))
        changes += tuple(f"profile of {stage}" for stage in given if given[stage] != known.get(stage))
        if changes:
            source, by = self._editor(name)
            why = f"{source}: {'; '.join(changes)}"
            exchange(wanted, {**known, **given}, Attribution(ControlAction.EDIT, by, why))
            self._note(name, EditState.TAKEN, source=source, by=by, changes=changes)
        elif (before := self._latest.get(name)) is not None and before.state is not EditState.TAKEN:
            # The edit was taken back: nothing is left to refuse.
            self._latest.pop(name)

    def _read(self, name: str) -> tuple[Pipeline, Profiles]:
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

    def _editor(self, name: str) -> tuple[str, str]:
        """The path of a file that has changed since it was read last, and the name of its owner."""
        changed = [each for each in self.stamp(name) if each not in self._stamps[name]]
        path = Path(max(changed, key=lambda each: each[1])[0]) if changed else self.path(name)
        owner = ""
        with suppress(OSError, KeyError):
            owner = pwd.getpwuid(path.stat().st_uid).pw_name
        return str(path), owner

    def _note(self, name: str, state: EditState, **values: Any) -> None:
        """Store the state of the edit, and log it once."""
        edit = PipelineEdit(state, at=self.now().isoformat(), **{"source": str(self.path(name)), **values})
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


def _in_a_line(error: IpaError) -> str:
    """The message, the problems and the hint of the error, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    # Problems with a place replace the message that counts them.
    has_places = bool(error.problems) and all(problem.path for problem in error.problems)
    return "; ".join(lines[1:] if has_places else lines)
