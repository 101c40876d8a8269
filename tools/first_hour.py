"""The first hour of five kinds of user: the commands of the docs as they are printed, each step timed.

The pages and sections of each are in `HOURS`. Everything happens in folders of its own, so that nothing here
is touched; `run` does the same for the tests, without installing. `python -m tools.first_hour [KIND]...`
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Protocol

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# What starts the service, which goes on until the next one starts.
SERVICE = re.compile(r"^ipa (demo|serve)\b")
VARIABLE = re.compile(r"^export (\w+)=(\S*)")
EXIT_CODE = re.compile(r" *# exit code (\d+)$")
# A command that is given while something changes (4), or that a busy machine does not answer in time (5), is
# given again after a moment; people do that twice before they read on.
AGAIN = (4, 5)
AGAIN_S, ATTEMPTS = 5.0, 3
LIMIT_S = 400.0
START_S = 60.0
# Folders of a clone that the pages are about.
FOLDERS = ("pipelines", "profiles", "experiments", "deploy")
# Programs that are not everywhere.
OPTIONAL = {"promtool": "needs promtool, of Debian's package prometheus"}


@dataclass(frozen=True, slots=True)
class Action:
    """Something that a user does: types a command, which prints that, writes a file, or edits one."""

    command: str
    expected: str = ""
    file: str = ""
    # The lines that an edit takes away; `expected` are those that it puts there.
    edited: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A heading of a page, and what is done under it."""

    title: str
    actions: tuple[Action, ...]


class FailedError(Exception):
    """A command did not do what the page says."""


class Person(Protocol):
    """Somebody who does what a page says."""

    def do(self, action: Action) -> None:
        """Do it. FailedError where it does not go as the page says."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """Sections of a page below docs/, in the order in which somebody follows them; all if none is named."""

    page: str
    sections: tuple[str, ...] = ()
    # Commands of other pages that it takes for granted.
    given: tuple[str, ...] = ()
    # The reasons not to type the commands that begin so; empty for what was done before.
    skipped: Mapping[str, str] = field(default_factory=dict)
    # Makes the person, from a folder and the path of programs.
    place: Callable[[Path, str], AbstractContextManager[Person]] | None = None
    # Programs without which the whole chapter is skipped.
    needs: tuple[str, ...] = ()

    def why_not(self, command: str, path: str) -> str | None:
        """The reason not to type the command; None if it is typed."""
        program = command.partition(" ")[0]
        if program in OPTIONAL and shutil.which(program, path=path) is None:
            return OPTIONAL[program]
        return next((why for begin, why in self.skipped.items() if command.startswith(begin)), None)

    def steps(self) -> list[Step]:
        """The steps of its sections."""
        steps = {step.title: step for step in steps_of((DOCS / self.page).read_text())}
        missing = [title for title in self.sections if title not in steps]
        assert not missing, f"docs/{self.page} has no section {missing}"
        return [steps[title] for title in self.sections or steps]


def steps_of(text: str) -> list[Step]:
    """The headings of the second level under which something is done, in their order."""
    steps: list[Step] = []
    title, actions, block = "", list[Action](), list[str]()
    kind = ""
    for line in [*text.splitlines(), "## end"]:
        bare = line.strip()
        if kind:
            if bare == "```":
                actions += _actions(kind, dedent("\n".join(block)).splitlines())
                kind, block = "", []
            else:
                block.append(line)
        elif bare.startswith("```"):
            kind = bare[3:]
        elif line.startswith(("# ", "## ")):
            if title and actions:
                steps.append(Step(title, tuple(actions)))
            title, actions = line.lstrip("# "), []
    return steps


def _actions(kind: str, block: list[str]) -> Iterator[Action]:
    if kind == "yaml" and block[0].startswith("# "):
        # The words after the file's name say where it is.
        yield Action("", "\n".join(block[1:]) + "\n", block[0].split()[1])
    elif kind == "diff":
        gone, put = ("\n".join(line[1:] for line in block if line[0] == sign) for sign in "-+")
        yield Action("", put, edited=gone)
    elif kind == "bash":
        for line in "\n".join(block).replace("\\\n", "").splitlines():
            if line and not line.startswith("#"):
                match = EXIT_CODE.search(line)
                yield Action(EXIT_CODE.sub("", line), exit_code=int(match[1]) if match else 0)
    elif kind == "console":
        for part in "\n".join(block).removeprefix("$ ").split("\n$ "):
            command, _, expected = part.partition("\n")
            yield Action(command, expected)


class User:
    """Works in a folder with what is on the path; the service that was started goes on behind.

    `here` are more addresses of the page and what they are here, `environment` more variables.
    """

    def __init__(
        self, folder: Path, path: str, here: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        self._folder = folder
        # Somebody else may have the usual ports.
        port, router = free_port(), free_port()
        self._here = {
            "127.0.0.1:8080": f"127.0.0.1:{port}",
            "IPA_ROUTER_PORT=9000": f"IPA_ROUTER_PORT={router}",
            **here,
        }
        there = {"IPA_PORT": f"{port}", "IPA_AT": f"http://127.0.0.1:{port}"}
        shell = {"PATH": path, "NO_COLOR": "1", "COLUMNS": "160"}
        self._environment = {**os.environ, **shell, **there, **environment}
        self._service: subprocess.Popen[str] | None = None

    def do(self, action: Action) -> None:
        """Do it. FailedError where it does not go as the page says."""
        command = action.command
        for usual, ours in self._here.items():
            command = command.replace(usual, ours)
        if action.file:
            file = self._folder / action.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(action.expected)
        elif action.edited:
            self._edit(action)
        elif match := VARIABLE.match(command):
            self._environment[match[1]] = match[2]
        elif SERVICE.match(command):
            self._start(command)
        else:
            self._type(command, action)

    def close(self) -> None:
        """End the service as Ctrl-C does."""
        service, self._service = self._service, None
        if service is not None:
            service.send_signal(2)
            if service.wait(START_S) != 0:
                raise FailedError(f"the service ended with {service.returncode}")
            assert service.stdout is not None
            service.stdout.close()

    def _edit(self, action: Action) -> None:
        """Have the edit alone in a git work tree, in the one file that has these lines."""
        subprocess.run(["git", "checkout", "--quiet", "."], cwd=self._folder, check=True)
        files = [
            each for each in self._folder.glob("p*/*/*.yaml") if each.read_text().count(action.edited) == 1
        ]
        if len(files) != 1:
            raise FailedError(f"{len(files)} files have the lines\n{action.edited}")
        files[0].write_text(files[0].read_text().replace(action.edited, action.expected))

    def _start(self, command: str) -> None:
        self.close()
        self._service = service = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self._folder,
            env={**self._environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert service.stdout is not None
        if not any("page and API at" in line for line in service.stdout):
            raise FailedError(f"{command}: it ended before it answered")

    def _type(self, command: str, action: Action) -> None:
        for attempt in range(ATTEMPTS):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self._folder,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            if done.returncode not in AGAIN or attempt == ATTEMPTS - 1:
                break
            time.sleep(AGAIN_S)
        if done.returncode != action.exit_code:
            raise FailedError(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        pattern = re.escape(action.expected.strip()).replace(r"\.\.\.", ".*?")
        if not re.search(pattern, done.stdout, re.DOTALL):
            raise FailedError(f"{command} printed\n{done.stdout}")


def free_port() -> int:
    """A port of this machine that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def on_this_machine(
    folder: Path, path: str, here: Mapping[str, str] = {}, environment: Mapping[str, str] = {}
) -> Iterator[User]:
    """Somebody who ends what was started."""
    with ExitStack() as stack:
        person = User(folder, path, here, environment)
        stack.callback(person.close)
        yield person


@contextmanager
def in_a_repository(folder: Path, path: str) -> Iterator[User]:
    """Somebody with a git repository of pipelines, profiles and a trace, on a branch of main."""
    from tests.fakes.reviewed import make

    (folder / "repository").mkdir()
    with on_this_machine(make(folder / "repository"), path) as person:
        yield person


@contextmanager
def on_a_node(folder: Path, path: str) -> Iterator[User]:
    """Somebody with kubectl and Prometheus, on a cluster whose pods are processes of this machine."""
    from tests.fakes.adopting import node_of_others

    with (
        node_of_others(folder / "node") as (kubeconfig, url),
        on_this_machine(
            folder, path, {"http://prometheus.monitoring:9090": url}, {"KUBECONFIG": str(kubeconfig)}
        ) as person,
    ):
        yield person


class Installer:
    """Somebody who installs on the API server of the tests; what runs in a pod runs here."""

    def __init__(self, folder: Path, follow: Callable[[str], str]) -> None:
        self._folder, self._follow = folder, follow

    def do(self, action: Action) -> None:
        """Do it. FailedError where it does not go as the page says."""
        if action.file:
            file = self._folder / action.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(action.expected)
            return
        try:
            self._follow(action.command)
        except (AssertionError, KeyError) as error:
            raise FailedError(f"{action.command}: {error}") from error


@contextmanager
def on_a_cluster(folder: Path, path: str) -> Iterator[Installer]:
    """Somebody with kubectl and Helm and a cluster without the namespace."""
    from tests.fakes.installing import empty_cluster

    place = folder / "cluster"
    place.mkdir()
    with empty_cluster(place) as cluster:
        yield Installer(place, cluster.follow)


DEMO = ("ipa demo", "ipa watch video --until changed --timeout 2min")
REGISTRY = "needs root to build images, and a registry"
HOURS: Mapping[str, tuple[Chapter, ...]] = {
    "newcomer": (Chapter("tutorial/first-steps.md", skipped={"make install": "", "source ": ""}),),
    "owner": (
        Chapter("how-to/send-requests.md", ("Send requests to a pipeline", "On this machine")),
        Chapter(
            "how-to/change-a-running-pipeline.md",
            ("Change a running pipeline", "Edit its files", "Over the API"),
        ),
        Chapter("how-to/bring-your-own-pipeline.md"),
    ),
    "adopter": (Chapter("how-to/adopt.md", place=on_a_node, needs=("kubectl", "prometheus")),),
    "researcher": (
        Chapter("how-to/use-a-trace.md"),
        Chapter(
            "how-to/run-experiments.md",
            ("Compare policies in one command", "Experiments as files"),
            skipped={"make experiment": "takes minutes or hours, in a clone"},
        ),
        Chapter("how-to/compare-policies.md"),
    ),
    "platform": (
        Chapter(
            "how-to/install-on-a-cluster.md",
            (
                "Install on a cluster",
                "Change a pipeline",
                "Several namespaces",
                "Upgrade",
                "Downgrade",
                "Uninstall",
            ),
            skipped=dict.fromkeys(("make ", "skopeo ", "docker "), REGISTRY),
            place=on_a_cluster,
            needs=("kubectl", "helm"),
        ),
        Chapter(
            "how-to/operate-the-store.md",
            ("Check it", "Back it up", "Restore it"),
            skipped={
                "0 3 ": "a line for cron",
                "kubectl ": "needs the pod of an install",
                "pg_": "needs a PostgreSQL of the reader",
            },
        ),
        Chapter("how-to/monitor.md", ("Read them", "With a Prometheus of your own"), given=DEMO),
        Chapter(
            "how-to/alerts.md",
            ("On call",),
            given=DEMO,
            skipped={"ipa rollback video --to 4181": "its revision is one of that person's history"},
        ),
        Chapter(
            "how-to/review-changes.md",
            ("Check before you push", "Changed profiles need evidence"),
            place=in_a_repository,
        ),
    ),
}


@dataclass(slots=True)
class Report:
    """Seconds of each step, and the commands that were not typed, with the reasons."""

    took: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        width = max(map(len, [*self.took, "together"]))
        rows = {**self.took, "together": sum(self.took.values())}
        lines = [f"{title:<{width}}  {seconds:7.1f} s" for title, seconds in rows.items()]
        return "\n".join([*lines, *(f"not typed, {why}: {command}" for command, why in self.skipped.items())])


def run(chapters: Sequence[Chapter], folder: Path, path: str, report: Report | None = None) -> Report:
    """Do what the chapters say, each in a folder of its own. FailedError where it does not go as they say."""
    report = report or Report()
    for chapter in chapters:
        name = Path(chapter.page).stem
        missing = [each for each in chapter.needs if shutil.which(each, path=path) is None]
        if missing:
            report.skipped[f"docs/{chapter.page}"] = (
                f"needs {' and '.join(missing)} (tools/system.sh installs them)"
            )
            continue
        place = prepared(folder / name)
        with (chapter.place or on_this_machine)(place, path) as person:
            for command in chapter.given:
                person.do(Action(command))
            for step in chapter.steps():
                began_s = time.monotonic()
                if follow(person, step, partial(chapter.why_not, path=path), report.skipped):
                    title = step.title if len(chapters) == 1 else f"{name}: {step.title}"
                    report.took[title] = time.monotonic() - began_s
    return report


def follow(person: Person, step: Step, why_not: Callable[[str], str | None], skipped: dict[str, str]) -> bool:
    """Do the step; what is not typed is noted in `skipped`. False if there was nothing to do."""
    is_done = False
    for action in step.actions:
        why = why_not(action.command)
        if why is None:
            person.do(action)
            is_done = True
        elif why:
            skipped[action.command] = why
    return is_done


def prepared(folder: Path) -> Path:
    """The folder, with the files of a clone that the pages are about."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def installed(folder: Path) -> float:
    """Seconds that it took to install from a clone in the folder."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    began_s = time.monotonic()
    subprocess.run(["make", "--quiet", "install"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began_s


def main() -> int:
    """0 where all went as the pages say."""
    kinds = sys.argv[1:] or list(HOURS)
    unknown = [kind for kind in kinds if kind not in HOURS]
    if unknown:
        sys.stderr.write(f"no kind of user {unknown[0]!r}; there are {', '.join(HOURS)}\n")
        return 64
    with tempfile.TemporaryDirectory(prefix="ipa-first-hour-") as place:
        clone = Path(place) / "ipa"
        install_s = installed(clone)
        # Programs that were installed beside this Python are there for the clone too.
        folders = (clone / ".venv" / "bin", Path(sys.executable).parent, os.environ["PATH"])
        path = os.pathsep.join(map(str, folders))
        for kind in kinds:
            report = Report({"1. Install": install_s} if kind == "newcomer" else {})
            try:
                run(HOURS[kind], Path(place) / kind, path, report)
            except FailedError as failure:
                sys.stderr.write(f"{kind}: {failure}\n")
                return 1
            sys.stdout.write(f"{kind}\n{report}\n\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
