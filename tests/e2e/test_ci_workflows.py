"""deploy/ci: the files are valid, their commands exist, and their steps run in a real git repository."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from ipa.cli.main import build_app
from tests.fakes.reviewed import COSTLY, PIPELINE, edit, git, make

ROOT = Path(__file__).resolve().parents[2]
GITHUB, GITLAB = (ROOT / "deploy" / "ci" / name for name in ("github-actions.yml", "gitlab-ci.yml"))
SCHEMAS = "check_jsonschema.builtin_schemas.vendor"
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git: apt-get install git")


class Yaml12(yaml.SafeLoader):
    """In which `on` is a key, as these platforms read it."""


Yaml12.yaml_implicit_resolvers = {
    first: [pair for pair in resolvers if pair[0] != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), list("tf"))


def read(file: Path) -> Any:
    return yaml.load(file.read_text(), Yaml12)


def github_step(name: str) -> dict[str, Any]:
    [step] = [step for step in read(GITHUB)["jobs"]["review"]["steps"] if step.get("name") == name]
    return dict(step)


def scripts() -> dict[str, str]:
    """Every script of both files, by where it is."""
    by_job = {
        f"github {job} {step.get('name')}": step["run"]
        for job, values in read(GITHUB)["jobs"].items()
        for step in values["steps"]
        if "run" in step
    }
    before = "\n".join(read(GITLAB)[".ipa"]["before_script"])
    return {**by_job, "gitlab review": gitlab_script(), "gitlab before": before}


def gitlab_script() -> str:
    return "\n".join(read(GITLAB)["ipa-review"]["script"])


@pytest.mark.parametrize(("file", "schema"), [(GITHUB, "github-workflows"), (GITLAB, "gitlab-ci")])
def test_they_are_as_the_platforms_say(file: Path, schema: str) -> None:
    text = resources.files(SCHEMAS).joinpath(f"{schema}.json").read_text("utf-8")
    errors = list(
        jsonschema.validators.validator_for(json.loads(text))(json.loads(text)).iter_errors(read(file))
    )
    assert [error.message for error in errors] == []


def test_no_script_takes_text_of_others_into_its_code() -> None:
    """A branch's name must come in by the environment, or it could be a command."""
    assert [name for name, script in scripts().items() if "${{" in script] == []


def test_every_ipa_command_exists_with_those_options() -> None:
    group = typer.main.get_command(build_app())
    context = group.make_context("ipa", ["--help"], resilient_parsing=True)
    count = 0
    for script in scripts().values():
        for line in script.replace("\\\n", " ").splitlines():
            if not line.startswith("ipa "):
                continue
            words = shlex.split(line.partition("||")[0])
            assert words[words.index("$REVIEW") :] == ["$REVIEW", ">", "review.md"]
            words[words.index("$REVIEW") :] = read(GITLAB)["ipa-review"]["variables"]["REVIEW"].split()
            count += 1
            name, command, rest = group.resolve_command(context, words[1:])  # type: ignore[attr-defined]
            assert command is not None
            command.make_context(name, rest)
    assert count == 2


@pytest.mark.parametrize("name", list(scripts()))
def test_every_script_is_one_that_bash_can_read(name: str) -> None:
    done = subprocess.run(["bash", "-n"], input=scripts()[name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@dataclass
class Runner:
    """A checkout of the change, and what a platform would run in it."""

    folder: Path
    tools: Path

    def __call__(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join((str(self.tools), str(Path(sys.executable).parent), os.environ["PATH"]))
        given = {key: value for key, value in os.environ.items() if not key.startswith("IPA_")}
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**given, "PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def review(self) -> tuple[subprocess.CompletedProcess[str], int]:
        """The step that reviews, and the exit code of the step that gives the verdict."""
        outputs, summary = self.folder / "outputs", self.folder / "summary"
        step = github_step("Review")
        done = self(
            step["run"], BASE="origin/main", GITHUB_OUTPUT=str(outputs), GITHUB_STEP_SUMMARY=str(summary)
        )
        code = outputs.read_text().strip().partition("=")[2] if outputs.is_file() else ""
        assert summary.read_text() == (self.folder / "comment.md").read_text()
        verdict = self(github_step("Verdict")["run"], CODE=code)
        assert int(code) == verdict.returncode
        return done, int(code)

    def comment(self) -> list[str]:
        """The requests to the platform of the step that comments."""
        calls = self.tools / "calls"
        calls.write_text("")
        done = self(github_step("Comment")["run"], COMMENTS="issues/7/comments", COMMENT="issues/comments")
        assert done.returncode == 0, done.stderr
        return calls.read_text().splitlines()


# Stand-ins of the platforms' clients: they keep what is asked, and list the comments there are.
GH = """#!/bin/sh
case "$*" in
  *--paginate*) cat "$(dirname "$0")/listed" ;;
  *) echo "$@" >> "$(dirname "$0")/calls" ;;
esac
"""
CURL = """#!/bin/sh
echo "$@" | sed 's/.*TOKEN: [^ ]* //' >> "$(dirname "$0")/calls"
case "$*" in *per_page*) cat "$(dirname "$0")/listed" ;; esac
"""


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    origin, tools = tmp_path / "origin", tmp_path / "tools"
    origin.mkdir()
    make(origin)
    git(tmp_path, "clone", "--quiet", "--branch", "change", str(origin), "checkout")
    tools.mkdir()
    for name, text in (("gh", GH), ("curl", CURL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tools / "listed").write_text("")
    return Runner(tmp_path / "checkout", tools)


@pytest.mark.parametrize("expected", [0, 3])
def test_on_github_a_review_ends_as_it_should(runner: Runner, expected: int) -> None:
    """By the exit code and the output of `ipa ci`; GitLab's job below runs the real one."""
    (runner.tools / "ipa").write_text(f'#!/bin/sh\necho "| video |"\nexit {expected}\n')
    (runner.tools / "ipa").chmod(0o755)
    done, code = runner.review()
    assert (done.returncode, code) == (0, expected), done.stderr
    assert (runner.folder / "comment.md").read_text() == "<!-- ipa ci -->\n| video |\n"
    assert runner.comment() == ["api --method POST issues/7/comments -F body=@comment.md"]
    (runner.tools / "listed").write_text("41\n42\n")
    assert runner.comment() == ["api --method PATCH issues/comments/41 -F body=@comment.md"]


def test_on_github_what_went_wrong_is_no_verdict(runner: Runner) -> None:
    (runner.folder / "summary").write_text("")
    (runner.folder / "comment.md").write_text("")
    step = github_step("Review")
    done = runner(step["run"], BASE="origin/none", GITHUB_OUTPUT="outputs", GITHUB_STEP_SUMMARY="summary")
    assert done.returncode == 64 and "'origin/none' is not a commit" in done.stderr
    assert not (runner.folder / "outputs").exists()


def test_on_gitlab_a_costly_change_is_noted(runner: Runner) -> None:
    edit(runner.folder / PIPELINE, COSTLY)
    git(runner.folder, "commit", "--quiet", "-am", "costly")
    calls = runner.tools / "calls"
    environment = {
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
        "CI_API_V4_URL": "https://gitlab.example/api/v4",
        "CI_PROJECT_ID": "5",
        "CI_MERGE_REQUEST_IID": "7",
        # The project's variables are in the environment of its jobs.
        "IPA_REPOSITORY": "https://gitlab.example/ann/ipa.git",
        "IPA_COMMIT": "0" * 40,
        "REVIEW": "--trace traces/video.txt --seeds 1 --fail-if violation_ratio>0.01",
    }
    done = runner(gitlab_script(), **environment)
    assert done.returncode == 0, done.stderr
    assert "| video " in (runner.folder / "comment.md").read_text()
    assert not calls.exists(), "without a token nothing is asked"
    # The review is done; what follows is only how its comment gets there.
    note = next(part for part in read(GITLAB)["ipa-review"]["script"] if "PRIVATE-TOKEN" in part)
    notes = "https://gitlab.example/api/v4/projects/5/merge_requests/7/notes"
    listed = [{"id": 40, "body": "looks good"}, {"id": 41, "body": "<!-- ipa ci -->\n### IPA"}]
    for there, expected in (
        ([], f"--request POST --data-urlencode body@comment.md {notes}"),
        (listed, f"--request PUT --data-urlencode body@comment.md {notes}/41"),
    ):
        (runner.tools / "listed").write_text(json.dumps(there))
        calls.write_text("")
        done = runner(note, IPA_REVIEW_TOKEN="secret", **environment)
        assert done.returncode == 0, done.stderr
        assert calls.read_text().splitlines() == [f"{notes}?per_page=100", expected]


def test_what_is_installed_is_built_from_the_copy_of_the_repository(tmp_path: Path) -> None:
    """Every package by the hashes of the lock, and ipa by no name that an index could answer."""
    recorder = tmp_path / "python"
    recorder.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    recorder.chmod(0o755)
    script = ROOT / "deploy" / "ci" / "install.sh"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([str(script)], env={"PATH": path}, cwd=tmp_path, check=True, timeout=300)
    locked, built, installed = (tmp_path / "calls").read_text().splitlines()
    assert "--require-hashes --no-deps --only-binary :all:" in locked
    assert [word for word in locked.split() if word.endswith(".txt")] == [
        f"requirements/{name}.txt" for name in ("build", "service")
    ]
    assert built.split()[2] == "wheel" and "--no-deps --no-build-isolation" in built and built.endswith(" .")
    assert "--no-deps --no-index dist/ipa_serving-" in installed
    for file, variables in (
        (GITHUB, ("vars.IPA_REPOSITORY", "vars.IPA_COMMIT")),
        (GITLAB, ("$IPA_REPOSITORY",)),
    ):
        assert all(each in file.read_text() for each in variables)
        assert "deploy/ci/install.sh" in file.read_text()


# `pip install ipa-serving`, an extra of it, or an image that Docker Hub would be asked for.
NAMES = re.compile(
    r"(pip|uvx?|pipx)\b[^\n`]* (install|run|tool)\b[^\n`]*[ '\"]ipa(-serving)?([\[ '\"=<>~]|$)"
    r"|ipa-serving\[|(docker|podman) (pull|run)[^\n`]* ipa(-serving)?/"
    r"|image: ['\"]?ipa(-serving)?/",
    re.MULTILINE,
)


def test_nothing_is_installed_or_run_by_a_name_that_is_not_ours() -> None:
    folders = ("docs", "deploy", "pipelines", "ipa", "tools")
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]
    files += [
        file
        for folder in folders
        for file in (ROOT / folder).rglob("*")
        if file.suffix in (".md", ".yaml", ".yml", ".py", ".sh", ".toml", ".tpl", ".txt")
    ]
    foreign = [
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in files
        for match in NAMES.finditer(file.read_text())
    ]
    assert foreign == []
    for text in ("pip install ipa-serving", "pip install 'ipa-serving[demo]'", "image: ipa/digits:1"):
        assert NAMES.search(text)
