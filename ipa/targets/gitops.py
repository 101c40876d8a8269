"""The Workload port with GitOps: the service commits to a branch, a GitOps tool applies it to the cluster.

Also the git command with a deadline, and the base of a review (`ipa ci`).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ipa.adapters.processes import run
from ipa.control.canonical import digest
from ipa.control.engine.transition import changes
from ipa.control.ports import PipelineManifest, Rollout, RolloutPhase, StageState, Workload, WorkloadState
from ipa.model.decision import Change, Decision
from ipa.model.errors import (
    READ_AGAIN,
    ConfigurationError,
    ConflictError,
    DriftError,
    ForbiddenError,
    InputError,
    IpaError,
    NotFoundError,
    Problem,
    UnavailableError,
    UsageError,
)
from ipa.model.masking import mask_urls
from ipa.model.parts import stage_pairs
from ipa.model.pipeline import Pipeline
from ipa.model.plan import in_millicores
from ipa.model.rolling import DEPLOYMENT
from ipa.settings import Settings
from ipa.targets.base import Target

# Enough to tell two texts of one file apart.
DIGITS = 12
# A large repository on a slow disk; beyond that something hangs.
TIMEOUT_S = 60.0
# What git says may quote a remote's whole banner.
LONGEST_MESSAGE = 400
# A person's hooks, signing and pagers are for persons; and nobody is here to type a password.
OPTIONS = ("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false", "-c", "gc.auto=0")
QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}

# Variables that would make it another repository than the one it is asked for.
ELSEWHERE = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"})
AUTHOR = "ipa-serving <ipa-serving@localhost>"
PERSON = re.compile(r"([^<>\n]+) <([^<>\s]+)>")


class Git:
    """The git command in one repository. Every call, with all its processes, ends within the time limit."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._folder, self._timeout_s = folder, timeout_s

    def __call__(
        self,
        *words: str,
        given: str | None = None,
        environment: Mapping[str, str] | None = None,
        fault: Callable[[str], Exception] = lambda message: UnavailableError(f"git failed: {message}"),
    ) -> str:
        """The output of the command, as text.

        `fault` makes the error of a failed command from git's message. UnavailableError: no end in time.
        ConfigurationError: git is not installed. InputError: the output is not UTF-8.
        """
        command = ["git", "-C", str(self._folder), *OPTIONS, *words]
        env = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
        env = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes", **env, **QUIET, **(environment or {})}
        stdin = None if given is None else given.encode()
        try:
            done = run(command, given=stdin, env=env, limit_s=self._timeout_s)
        except TimeoutError:
            raise UnavailableError(f"git {words[0]}: did not finish within {self._timeout_s:g} s") from None
        except OSError as error:
            raise ConfigurationError(f"git cannot be run: {error.strerror}", hint="Install git.") from error
        if done.returncode != 0:
            answer = mask_urls(done.stderr.decode("utf-8", "replace"))
            raise fault(answer.strip()[:LONGEST_MESSAGE])
        try:
            return done.stdout.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"git {words[0]}: its output is not UTF-8 at byte {error.start}") from error


class Repository:
    """A branch whose files are read, and changed by commits; the work tree and index are not used.

    It is a branch of the remote if one is named. `author` is the author of the commits, as "Name <address>".
    Errors: ConflictError (the branch or file moved), ForbiddenError (the remote refuses), NotFoundError,
    UnavailableError (no answer in time, or git failed; after a push read the branch to know if it arrived),
    ConfigurationError (no git, no repository, no such author).
    """

    def __init__(
        self, folder: Path, branch: str, remote: str = "", author: str = AUTHOR, timeout_s: float = TIMEOUT_S
    ) -> None:
        match = PERSON.fullmatch(author)
        if match is None:
            raise ConfigurationError(
                f"IPA_GITOPS_AUTHOR {author!r} is not a name and an address",
                hint='For example "ipa <ipa@example.com>".',
            )
        self._git, self._folder = Git(folder, timeout_s), folder
        self._branch, self._remote = branch, remote
        # Loops of several pipelines share the branch; git's own locks refuse rather than wait.
        self._turn = threading.Lock()
        self._who = {
            f"GIT_{role}_{key}": value
            for role in ("AUTHOR", "COMMITTER")
            for key, value in (("NAME", match[1].strip()), ("EMAIL", match[2]))
        }
        self._git(
            "rev-parse",
            "--git-dir",
            fault=lambda message: ConfigurationError(f"{folder} is not a git repository: {message}"),
        )

    def read(self, path: str) -> str:
        """The file's text at the branch's newest commit."""
        with self._turn:
            return self._text(self._head(), path)

    def write(self, path: str, before: str, after: str, message: str) -> None:
        """Commit `after` in place of `before`. ConflictError: the file differs from `before`."""
        with self._turn:
            head = self._head()
            if self._text(head, path) != before:
                raise ConflictError(
                    f"{path} on {self._branch} was changed since it was read", hint=READ_AGAIN
                )
            try:
                commit = self._commit(head, path, after, message)
            except UnavailableError as error:
                raise UnavailableError(f"nothing was committed: {error.message}") from error
            self._publish(head, commit)

    def _head(self) -> str:
        """The branch's newest commit, of the remote if there is one."""
        name, remote = self._branch, self._remote
        ref = f"refs/remotes/{remote}/{name}" if remote else f"refs/heads/{name}"
        if remote:
            refs = f"+refs/heads/{name}:{ref}"
            unread = f"branch {name} of {remote} cannot be read"
            self._git(
                *("fetch", "--quiet", "--no-tags", remote, refs),
                fault=lambda message: UnavailableError(f"{unread}: {message}"),
            )
        none = NotFoundError(f"{self._folder} has no branch {name!r}", hint="Create the branch first.")
        commit = self._git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", fault=lambda _: none)
        return commit.strip()

    def _text(self, commit: str, path: str) -> str:
        none = NotFoundError(
            f"there is no file {path} on branch {self._branch}",
            hint="`ipa render PIPELINE` prints the manifest to commit there.",
        )
        return self._git("cat-file", "blob", f"{commit}:{path}", fault=lambda _: none)

    def _commit(self, head: str, path: str, text: str, message: str) -> str:
        """A commit on top of `head` that changes the one file; no branch points to it yet."""
        blob = self._git("hash-object", "-w", "--stdin", given=text).strip()
        mode = self._git("ls-tree", head, "--", path).split(maxsplit=1)[0]
        with TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self._git("read-tree", head, environment=index)
            self._git("update-index", "--add", "--cacheinfo", f"{mode},{blob},{path}", environment=index)
            tree = self._git("write-tree", environment=index).strip()
        return self._git("commit-tree", tree, "-p", head, given=message, environment=self._who).strip()

    def _publish(self, head: str, commit: str) -> None:
        """Point the branch to the commit, unless the branch moved meanwhile."""
        name, remote = self._branch, self._remote
        if remote:
            # Push only if the remote branch is still at the commit that was read.
            lease = f"--force-with-lease=refs/heads/{name}:{head}"
            words: tuple[str, ...] = ("push", "--quiet", lease, remote, f"{commit}:refs/heads/{name}")
        else:
            words = ("update-ref", f"refs/heads/{name}", commit, head)
        self._git(*words, fault=lambda message: _refusal(name, message))


def _refusal(name: str, text: str) -> IpaError:
    """The error for a branch that was not written, from git's message."""
    if any(words in text for words in ("stale info", "fetch first", "cannot lock ref", "non-fast-forward")):
        return ConflictError(f"branch {name} moved during the write: nothing was changed", hint=READ_AGAIN)
    if any(words in text for words in ("remote rejected", "denied", "not allowed", "Authentication failed")):
        return ForbiddenError(
            f"git refused to write branch {name}: {text}", hint="Allow the service to push to that branch."
        )
    return UnavailableError(f"branch {name} could not be written: {text}")


@contextmanager
def base_checkout(folder: Path, ref: str, timeout_s: float = TIMEOUT_S) -> Iterator[tuple[Path, str, Path]]:
    """The top of the work tree at `folder`, the newest commit in common with `ref`, and its YAML files.

    The files are in a folder that is removed after the block. Errors: UsageError (no work tree, no such ref,
    no common commit); those of `Git`.
    """
    outside = f"{folder} is not in a git work tree"
    top = Git(folder, timeout_s)(
        "rev-parse", "--show-toplevel", fault=lambda message: UsageError(f"{outside}: {message}")
    )
    root = Path(top.removesuffix("\n"))
    git = Git(root, timeout_s)
    unknown = UsageError(
        f"--base {ref!r} is not a commit of this repository",
        hint="Fetch it first, for example with `git fetch origin main`, and pass origin/main.",
    )
    words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    named = git(*words, fault=lambda _: unknown).strip()
    unrelated = UsageError(
        f"--base {ref!r} and HEAD have no commit in common",
        hint="A shallow clone may lack it: fetch the whole history (fetch-depth: 0, GIT_DEPTH: 0).",
    )
    commit = git("merge-base", named, "HEAD", fault=lambda _: unrelated).strip()
    listed = git("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit).split("\0")
    with TemporaryDirectory() as made:
        # A separate index, so that the work tree's stays as it is.
        index = {"GIT_INDEX_FILE": str(Path(made) / "index")}
        files = Path(made) / "files"
        git("read-tree", commit, environment=index)
        names = "\0".join(name for name in listed if name.endswith(".yaml"))
        git("checkout-index", "-z", "--stdin", f"--prefix={files}/", given=names, environment=index)
        yield root, commit, files


class GitOpsWorkload:
    """A workload whose manifest is rewritten; a GitOps tool applies it to the cluster, which is only read.

    The wanted configuration is read from the manifest, the ready replicas from the cluster. The workload is
    settled if the cluster runs exactly the manifest's configuration. `manifest_of` parses the text of a
    manifest, `decision` gives the recorded decision of an id, for the commit's message.
    """

    rolling = DEPLOYMENT

    def __init__(
        self,
        cluster: Workload,
        manifests: Repository,
        path: str,
        manifest_of: Callable[[Pipeline, str, str], PipelineManifest],
        decision: Callable[[str], Decision] | None = None,
    ) -> None:
        self._cluster, self._manifests, self._path = cluster, manifests, path
        self._manifest_of, self._decision = manifest_of, decision

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """The configuration in the manifest, and how much of it the cluster runs.

        DriftError: manifest or cluster have a configuration that the pipeline cannot have. NotFoundError:
        manifest or cluster lack the pipeline.
        """
        state = self._cluster.read(pipeline)
        _, manifest, revision = self._look(pipeline, state)
        running = {stage.config: stage for stage in state.stages}
        wanted = manifest.configs()
        stages = tuple(
            StageState(config, 0) if there is None else replace(running[there], config=config)
            for there, config in stage_pairs(tuple(running), wanted)
        )
        settled = state.settled and wanted == tuple(running)
        return replace(state, revision=revision, stages=stages, settled=settled)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """Change the manifest in one commit, and return the new revision.

        ConflictError: manifest or cluster have changed since the decision.
        """
        state = self._cluster.read(pipeline)
        text, manifest, revision = self._look(pipeline, state)
        if revision != change.revision:
            raise ConflictError(
                f"pipeline {pipeline.name} is at {revision}; the change was decided at {change.revision}",
                hint=READ_AGAIN,
            )
        after = manifest.changed(change.configs)
        if after != text:
            self._manifests.write(self._path_of(pipeline), text, after, self._message(pipeline, change))
        return _revision(state, after)

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """The state of a written change: applied to the cluster by the GitOps tool, then rolled out there."""
        state = self._cluster.read(pipeline)
        running = tuple(stage.config for stage in state.stages)
        try:
            _, manifest, _ = self._look(pipeline, state)
            wanted = manifest.configs()
        except DriftError as error:
            return Rollout(RolloutPhase.REPLACED, f"another writer changed the manifest: {error.message}")
        if wanted != in_millicores(change.configs):
            # Reads are not cached, so this is newer than the write, even if it looks unchanged.
            return Rollout(RolloutPhase.REPLACED, "another writer changed the manifest")
        if running != wanted:
            words = f"the GitOps tool has not brought {self._path_of(pipeline)} to the cluster yet"
            return Rollout(RolloutPhase.PROGRESSING, words)
        # Judged by the object that is there now: the GitOps tool may make it anew.
        return self._cluster.rollout(pipeline, replace(change, revision=state.revision))

    def _path_of(self, pipeline: Pipeline) -> str:
        return self._path.replace("{pipeline}", pipeline.name)

    def _look(self, pipeline: Pipeline, state: WorkloadState) -> tuple[str, PipelineManifest, str]:
        """Text and contents of the manifest, and its revision together with that of the cluster."""
        path = self._path_of(pipeline)
        text = self._manifests.read(path)
        return text, self._manifest_of(pipeline, text, path), _revision(state, text)

    def _message(self, pipeline: Pipeline, change: Change) -> str:
        """The commit message: the change, its decision and the reason."""
        what = "take back" if change.is_rollback else "change"
        lines = [f"ipa: {what} {pipeline.name}", "", changes(change.previous, change.configs), ""]
        lines.append(f"Decision: {change.decision_id}")
        try:
            decision = self._decision(change.decision_id) if self._decision else None
        except IpaError:
            # The decision is in the record, which can be read later for the rest.
            decision = None
        if decision is not None:
            # In one line, so that nothing in a detail can look like another line of ours.
            lines.append(f"Reason: {decision.reason.value}: {' '.join(decision.detail.split())}")
        return "\n".join(lines) + "\n"


def _revision(state: WorkloadState, text: str) -> str:
    """The revision of cluster and manifest together."""
    return f"{state.revision}+{digest(text)[:DIGITS]}"


def through_gitops(
    settings: Settings, cluster: Workload, target: Target, decision: Callable[[str], Decision]
) -> GitOpsWorkload:
    """The workload by GitOps: the cluster is only read. ConfigurationError lists faults."""
    problems = [Problem(fault) for fault in gitops_faults(settings)]
    if problems:
        raise ConfigurationError("invalid GitOps settings", problems=problems)
    manifests = Repository(
        Path(settings.gitops_dir),
        settings.gitops_branch,
        settings.gitops_remote,
        settings.gitops_author,
        settings.gitops_timeout_s,
    )
    return GitOpsWorkload(cluster, manifests, settings.gitops_path, target.manifest, decision)


def gitops_faults(settings: Settings) -> Iterator[str]:
    """The faults of the GitOps settings."""
    if settings.actuation != "gitops":
        return
    path = settings.gitops_path
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        yield f"IPA_GITOPS_PATH: {path!r} is not a path below the folder"
    elif not path.endswith((".yaml", ".yml")):
        yield f"IPA_GITOPS_PATH: {path!r} does not end in .yaml"
    if not settings.gitops_dir or not Path(settings.gitops_dir).is_dir():
        yield f"IPA_GITOPS_DIR {settings.gitops_dir!r} is not a folder"
    if set(settings.gitops_remote) & set(":/"):
        yield "IPA_GITOPS_REMOTE must name a remote of the clone; `git remote add origin URL` adds one"
    if not settings.gitops_branch:
        yield "IPA_GITOPS_BRANCH is empty; name the branch that the GitOps tool follows"
