"""The page on installing as it is printed: its commands, in their order, on a cluster without the namespace.

kubectl and Helm are the real ones, the API server is that of the tests. Commands for images are checked only,
and what the page runs in the pod runs here instead, with the pod's environment and the rights of its account.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import dedent

import httpx
import pytest
import yaml

from ipa.bootstrap.app import build
from ipa.bootstrap.targets import ServeOptions
from ipa.model.decision import Mode, ReasonCode
from ipa.settings import Settings
from tests.deploy.rendering import ROOT, Json, tool
from tests.docs.test_docs_snippets import check_make
from tests.fakes.kube import FakeKube
from tests.fakes.kube.api import SELF_REVIEWS
from tests.fakes.kube.kinds import Kinds, rights_of

PAGE = (ROOT / "docs" / "how-to" / "install-on-a-cluster.md").read_text()
BLOCK = re.compile(r"^( *)```(bash|yaml)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
NAMESPACE, WAIT_S = "models", 60.0
SDEP = ("machinelearning.seldon.io", "seldondeployments", NAMESPACE, "digits")
# What every account may ask.
OF_ALL = ("version", "discovery")
# Programs that reach registries.
IMAGES = ("make", "skopeo", "docker")
IN_POD = re.compile(r"kubectl -n (\S+) exec deploy/ipa -- (.*)")
ROLLOUT = re.compile(r"kubectl -n (\S+) rollout status deploy/(\S+)")
# What a registry answers.
INSPECT, DIGEST = re.compile(r"\$\(skopeo inspect [^)]*\)"), f"sha256:{'0' * 64}"
FORWARD = re.compile(r"kubectl -n (\S+) port-forward svc/ipa (\d+):(\d+) &")
KEY = re.compile(r"ipa_[0-9a-f]{12}_\S+")


def commands(begin: str, end: str) -> Iterator[str]:
    """The commands between two texts of the page; what it calls a file is a command that writes it."""
    text = PAGE[PAGE.index(begin) : PAGE.index(end) if end in PAGE else None]
    for match in BLOCK.finditer(text):
        block = dedent(match[3])
        if match[2] == "yaml":
            name = block.split()[1]
            yield f"cat > {name} <<'END'\n{block}END"
            continue
        yield from block.replace("\\\n", "").splitlines()


@dataclass
class Cluster:
    """A machine with the page's folders, a cluster without the namespace, and the pod of the service."""

    kube: FakeKube
    folder: Path
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    key: str = ""
    service: subprocess.Popen[bytes] | None = None
    port: int = 0

    def run(self, command: str, env: dict[str, str] | None = None, *, check: bool = True) -> str:
        """What the command prints, run by a shell."""
        place = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "IPA_TOKEN": self.key,
            "NO_COLOR": "1",
            "COLUMNS": "160",
        }
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=self.folder,
            env=place | (env or {}),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def found(self, resource: str, name: str, namespace: str = NAMESPACE) -> Json:
        """The object in the cluster."""
        with self.kube.store.lock:
            return self.kube.store.get(resource, namespace, name)

    def container(self) -> Json:
        """The container of the service's Deployment."""
        (container,) = self.found("deployments", "ipa")["spec"]["template"]["spec"]["containers"]
        assert isinstance(container, dict)
        return container

    def pod(self) -> dict[str, str]:
        """The environment of the service's pod, with a store and files of this machine."""
        env: dict[str, str] = {}
        for each in self.container()["env"]:
            source = each.get("valueFrom", {}).get("secretKeyRef")
            env[each["name"]] = each["value"] if source is None else self._secret(source)
        assert env["IPA_STORE_URL"].startswith(("postgresql+psycopg://", "sqlite:////var/lib/ipa/"))
        return env | {
            "IPA_STORE_URL": f"sqlite:///{self.folder}/ipa.sqlite3",
            "IPA_KUBECONFIG": str(self.kube.kubeconfig(self.folder, self.token)),
            "IPA_LEASE_NAMESPACE": NAMESPACE,
            "IPA_LEADER_ELECTION": "on",
            "IPA_PIPELINES_DIR": str(self._mounted("pipelines", env["IPA_PIPELINES_DIR"])),
            "IPA_PROFILES_DIR": str(self._mounted("profiles", env["IPA_PROFILES_DIR"])),
            "IPA_HOST": "127.0.0.1",
            "IPA_PORT": str(self.port),
        }

    def _secret(self, source: Json) -> str:
        return base64.b64decode(self.found("secrets", source["name"])["data"][source["key"]]).decode()

    def _mounted(self, name: str, path: str) -> Path:
        """The volume's files, which are mounted there."""
        pod = self.found("deployments", "ipa")["spec"]["template"]["spec"]
        (mount,) = (each for each in self.container()["volumeMounts"] if each["mountPath"] == path)
        (volume,) = (each for each in pod["volumes"] if each["name"] == mount["name"])
        for source in volume["projected"]["sources"]:
            data = self.found("configmaps", source["configMap"]["name"])["data"]
            for item in source["configMap"]["items"]:
                file = self.folder / "pod" / name / item["path"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(data[item["key"]])
        return self.folder / "pod" / name

    def write(self) -> None:
        """Start the pod's service in this process, hand the pipeline over, and have it make a change."""
        given = self.pod() | {"IPA_LEADER_ELECTION": "off"}
        app = build(Settings.from_env(given), ServeOptions(names=("digits",), mode=Mode.ACTIVE))
        try:
            loop = app.loops["digits"]
            loop.tick_once()
            running = loop.snapshot().observation
            assert running is not None
            wanted = tuple(replace(stage.running.value, batch_size=2) for stage in running.stages)
            made = loop.request(wanted, "by the test")
            assert made.reason is ReasonCode.REQUESTED, made.detail
        finally:
            app.close()

    def serve(self) -> None:
        """Start the container, and wait until it is ready, as its probe asks."""
        container = self.container()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        env = {**os.environ, "PYTHONPATH": str(ROOT), **self.pod()}
        command = [str(Path(sys.executable).parent / "ipa"), *container["args"]]
        self.service = subprocess.Popen(
            command, cwd=self.folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        asked = f"http://127.0.0.1:{self.port}{container['readinessProbe']['httpGet']['path']}"
        patience = threading.Event()
        for _ in range(int(WAIT_S / 0.1)):
            try:
                if httpx.get(asked).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.service.poll() is None, "the service ended"
            patience.wait(0.1)
        raise AssertionError("the service does not get ready")

    def stop(self) -> None:
        """End the service."""
        if self.service is not None:
            self.service.terminate()
            self.service.wait(WAIT_S)
            self.service = None

    def bind(self) -> Callable[[str, str, str, str, str], bool]:
        """Let the pod's account do what its roles allow, and nothing else."""
        name = self.found("deployments", "ipa")["spec"]["template"]["spec"]["serviceAccountName"]
        self.found("serviceaccounts", name)
        self.kube.api.user = f"system:serviceaccount:{NAMESPACE}:{name}"
        may = rights_of(self.kube.store, name, NAMESPACE)
        self.kube.api.rights[self.token] = may
        return may

    def follow(self, command: str) -> str:
        """What the command of the page prints, or what it would."""
        command = INSPECT.sub(DIGEST, command)
        program = shlex.split(command, comments=True)[0]
        if program in IMAGES:
            check_images(command)
            return ""
        if match := IN_POD.fullmatch(command):
            assert match[1] == NAMESPACE
            self.bind()
            return self.run(match[2].replace("/tmp/", f"{self.folder}/pod-"), self.pod(), check=False)
        if match := ROLLOUT.fullmatch(command):
            return str(self.found("deployments", match[2], match[1])["metadata"]["name"])
        if match := FORWARD.fullmatch(command):
            port = self.found("services", "ipa", match[1])["spec"]["ports"][0]
            assert int(match[3]) == port["port"]
            self.bind()
            self.serve()
            return ""
        if program == "export":
            return ""
        if command.startswith("ipa status"):
            # It is at the page's port there.
            command += f" --at http://127.0.0.1:{self.port}"
        return self.run(command)


def check_images(command: str) -> None:
    """The targets of make are there, and an image is one that `make images` builds."""
    if command.startswith("make "):
        check_make(command)
    for name in re.findall(r"build/images:(\S+):\S+", command):
        known = {"ipa-serving/service", "ipa-serving/dataplane"}
        assert name in known or (ROOT / "pipelines" / name.removeprefix("ipa/") / "runtime.py").exists()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    for name in ("kubectl", "helm"):
        tool(name)
    for kind in ("pipelines", "profiles"):
        shutil.copytree(ROOT / kind / "digits", tmp_path / kind / "digits")
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / ".kube").mkdir()
    with FakeKube(kinds=Kinds()) as kube:
        kube.kubeconfig(tmp_path / ".kube").rename(tmp_path / ".kube" / "config")
        made = Cluster(kube, tmp_path)
        yield made
        made.stop()


def test_the_page_installs_what_it_says_as_printed(cluster: Cluster) -> None:
    printed: dict[str, str] = {}
    for command in commands("1. **Build", "## With kustomize"):
        if command.startswith("helm upgrade ipa "):
            may_before = rights_of(cluster.kube.store, "ipa", NAMESPACE)("patch", *SDEP)
            cluster.stop()
        printed[command] = cluster.follow(command)
        if "key create" in command:
            (cluster.key,) = KEY.findall(printed[command])
        if command.startswith("ipa render digits --rate"):
            cluster.kube.tick(5)
    status = next(text for command, text in printed.items() if command.startswith("ipa status"))
    assert "mode advisory" in status and "locate" in status
    # Nothing lacks but the Prometheus of the page, and the right to write, which advisory mode does without.
    doctor = next(text for command, text in printed.items() if "ipa doctor" in command).splitlines()
    assert {line.split()[1] for line in doctor if line.startswith("fail")} == {"prometheus:"}, doctor
    warned = [line for line in doctor if line.startswith("warn right")]
    assert warned and all("role actor" in line for line in warned)
    # The last command grants that right, in this namespace alone.
    may = cluster.bind()
    assert (may_before, may("patch", *SDEP)) == (False, True)
    assert not any(may(verb, *SDEP[:2], "default", "digits") for verb in ("get", "patch"))
    cluster.write()
    written = {one.resource for one in cluster.kube.writes if one.token == cluster.token}
    assert written - {*SELF_REVIEWS} == {"leases", "seldondeployments", "events"}
    # All that the account was asked for is in its roles, in the namespace where it was asked.
    asked = [one for one in cluster.kube.requests if one.token == cluster.token]
    asked = [one for one in asked if one.resource not in (*OF_ALL, *SELF_REVIEWS)]
    assert all(may(one.verb, one.group, one.resource, one.namespace, one.name) for one in asked)
    assert {one.namespace for one in asked} == {NAMESPACE}
    for command in commands("## Two installs", "## What the cluster"):
        assert "digits" in cluster.follow(command)
    operate(cluster)


def operate(cluster: Cluster) -> None:
    """What the page says of a running install: changes, more namespaces and teams, up, down and away."""
    kube, template = cluster.kube, cluster.found("deployments", "ipa")["spec"]["template"]
    assert "annotations" not in template["metadata"], "changed files are no reason to replace pods"
    *commands_of, overlay, applied = commands("## Change a pipeline", "## Several namespaces")
    for command in commands_of:
        cluster.follow(command)
    assert "latency: 200ms" in cluster.found("configmaps", "ipa-pipeline-digits")["data"]["pipeline.yaml"]
    assert cluster.found("deployments", "ipa")["spec"]["template"] == template
    _as_the_chart(cluster, overlay, applied)

    for command in commands("## Several namespaces", "## Several teams"):
        cluster.follow(command)
    there = rights_of(kube.store, "ipa", NAMESPACE)
    assert [there("get", *SDEP[:2], space, "x") for space in (NAMESPACE, "vision", "default")] == [
        True,
        True,
        False,
    ]

    printed = {command: cluster.follow(command) for command in commands("## Several teams", "## How much")}
    assert {"name": "IPA_API_NAMES", "value": "prefixed"} in cluster.container()["env"]
    (made,) = (text for command, text in printed.items() if "key create" in command)
    assert KEY.search(made)
    (own,) = (
        each
        for each in cluster.found("deployments", "ipa", "speech")["spec"]["template"]["spec"]["containers"]
    )
    assert {"name": "IPA_INSTALL", "value": "speech"} in own["env"]
    theirs = rights_of(kube.store, "ipa", "speech")
    assert [theirs("get", *SDEP[:2], space, "x") for space in ("speech", NAMESPACE)] == [True, False]

    before = cluster.container()["image"]
    printed = {command: cluster.follow(command) for command in commands("## Upgrade", "## Downgrade")}
    assert any("verified; sha256" in text for text in printed.values())
    assert (cluster.folder / "before.sqlite3").stat().st_size > 10_000
    assert cluster.container()["image"].endswith(f"/ipa-serving/service@{DIGEST}")
    assert {"name": "IPA_API_NAMES", "value": "prefixed"} in cluster.container()["env"], "values are kept"
    for command in commands("## Downgrade", "## Uninstall"):
        cluster.follow(command)
    assert cluster.container()["image"] == before

    printed = {command: cluster.follow(command) for command in commands("## Uninstall", "## The end")}
    assert "digits" in list(printed.values())[-1]
    kinds = ("deployments", "roles", "rolebindings", "serviceaccounts", "services", "seldondeployments")
    with kube.store.lock:
        left = [kind for kind in kinds if kube.store.find(kind, NAMESPACE)]
    assert left == ["deployments", "seldondeployments"], "those of the pipeline are left"
    assert not [
        each for each in kube.store.find("deployments", NAMESPACE) if each["metadata"]["name"] == "ipa"
    ]


def _as_the_chart(cluster: Cluster, overlay: str, applied: str) -> None:
    """The overlay's pod has the chart's volumes, mounts and variables of the pipelines."""
    cluster.run(overlay)
    made = cluster.run(applied)
    documents = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(made)}
    assert (
        documents["ConfigMap", "ipa-pipeline-digits"]["data"]
        == (cluster.found("configmaps", "ipa-pipeline-digits")["data"])
    )
    ours = documents["Deployment", "ipa"]["spec"]["template"]["spec"]
    theirs = cluster.found("deployments", "ipa")["spec"]["template"]["spec"]

    def files(pod: Json) -> list[Json]:
        (container,) = pod["containers"]
        mounts = [each for each in container["volumeMounts"] if each["name"] in ("pipelines", "profiles")]
        folders = [
            each for each in container["env"] if each["name"] in ("IPA_PIPELINES_DIR", "IPA_PROFILES_DIR")
        ]
        volumes = [each for each in pod["volumes"] if each["name"] in ("pipelines", "profiles")]
        for volume in volumes:
            for source in volume["projected"]["sources"]:
                source["configMap"]["items"].sort(key=str)
        return mounts + folders + volumes

    assert files(ours) == files(theirs)


def test_one_replica_has_its_own_volume(cluster: Cluster) -> None:
    cluster.run("kubectl create namespace models")
    (flags,) = re.findall(r"add `(.*?)` to the command of step 5", PAGE)
    for command in (*commands("2. **Say where", "3. **Create"), *commands("5. **Install", "6. **Create")):
        cluster.run(f"{command} {flags}" if command.startswith("helm") else command)
    assert cluster.found("persistentvolumeclaims", "ipa-store")
    assert cluster.pod()["IPA_STORE_URL"].startswith("sqlite:")
    assert "secretKeyRef" not in str(cluster.container())


def test_the_overlay_is_applied_to_its_namespace(cluster: Cluster) -> None:
    cluster.run("kubectl create namespace models")
    for command in commands("## With kustomize", "## Roles"):
        cluster.follow(command)
    assert cluster.bind()("get", *SDEP) and cluster.container()["args"][-1] == "--mode=advisory"


def test_the_roles_are_bound_by_hand(cluster: Cluster) -> None:
    cluster.run("kubectl create namespace models")
    for command in commands("## By hand", "## Two installs"):
        cluster.follow(command)
    may = rights_of(cluster.kube.store, "ipa", NAMESPACE)
    assert may("get", *SDEP) and not may("patch", *SDEP)
    assert may("create", "coordination.k8s.io", "leases", NAMESPACE, "")
