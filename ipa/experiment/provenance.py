"""The origin of a report: version, commit, date, machine and packages, and how to cite it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

import ipa
from ipa.adapters.processor import processor_name
from ipa.experiment.cells import NUMERIC, code_version
from ipa.model.times import in_utc

PACKAGES = ("joblib", "numba", *NUMERIC)
GIT_S = 5.0
# CITATION.cff says the same; a test compares them.
CITE_TITLE = "ipa: accuracy and cost control of inference pipelines within their latency SLA"
CITE_AUTHOR = "The ipa maintainers"
CITE_PAPER = (
    "Ghafouri et al., IPA: Inference Pipeline Adaptation to Achieve High Accuracy and Cost-Efficiency, "
    "Journal of Systems Research, 2024"
)


@dataclass(frozen=True, slots=True)
class Provenance:
    """The facts that a report names as its origin, as text; `commit` is empty outside a checkout."""

    version: str
    commit: str
    made_at: str
    machine: str
    system: str
    packages: str
    engine: str

    def rows(self) -> Iterator[tuple[str, str]]:
        """The facts with their headings."""
        yield "ipa (version and digest of its code)", self.version
        yield "commit", self.commit or "not known: ipa was not run from a checkout"
        yield "date", self.made_at
        yield "machine", self.machine
        yield "system", self.system
        yield "packages", self.packages
        yield "engine", self.engine

    @property
    def citation(self) -> str:
        """A BibTeX entry of this version of ipa."""
        year = self.made_at[:4]
        return (
            f"@software{{ipa,\n  author = {{{{{CITE_AUTHOR}}}}},\n  title = {{{CITE_TITLE}}},\n"
            f"  version = {{{self.version}}},\n  year = {{{year}}},\n  license = {{Apache-2.0}}\n}}"
        )


def provenance(engine: str) -> Provenance:
    """The origin of what this process makes now. SOURCE_DATE_EPOCH, in seconds, replaces the date."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    return Provenance(
        version=code_version(),
        commit=_commit(Path(ipa.__file__).parent),
        made_at=in_utc(now),
        machine=f"{processor_name()}, {os.cpu_count()} cores, {_memory_gib():.0f} GiB of memory",
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        packages=", ".join(_packages()),
        engine=engine,
    )


def _commit(folder: Path) -> str:
    """The commit of the folder's checkout, with a note if it was changed; empty outside one."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{head} with uncommitted changes" if changed else head


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(  # noqa: S603 # fixed words
        ["git", "-C", str(folder), *words],  # noqa: S607 # the user's own git
        capture_output=True,
        text=True,
        timeout=GIT_S,
        check=True,
    )
    return done.stdout.strip()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _packages() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version_of(name)}"
        except PackageNotFoundError:
            continue
