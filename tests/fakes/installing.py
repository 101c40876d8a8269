"""The page on installing as it is printed, on a cluster without the namespace, with real kubectl and Helm.

The API server is that of the tests. Commands for images are checked only, and what the page runs in the pod
runs here instead, with the pod's environment and the rights of its account.
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
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from ipa.bootstrap.app import build
from ipa.bootstrap.targets import ServeOptions
from ipa.control.engine.state import ChangeRequest
from ipa.model.decision import Mode, ReasonCode
from ipa.settings import Settings
from tests.deploy.rendering import ROOT, Json
from tests.docs.test_docs_snippets import check_make
from tests.fakes.children import run_process
from tests.fakes.kube import FakeKube
from tests.fakes.kube.kinds import Kinds, rights_of

NAMESPACE, WAIT_S = "models", 60.0
# Programs that reach registries.
IMAGES = ("make", "skopeo", "docker")
IN_POD = re.compile(r"kubectl -n (\S+) exec deploy/ipa -- (.*)")
ROLLOUT = re.compile(r"kubectl -n (\S+) rollout status deploy/(\S+)")
# What a registry answers.
INSPECT, DIGEST = re.compile(r"\$\(skopeo inspect [^)]*\)"), f"sha256:{'0' * 64}"
FORWARD = re.compile(r"kubectl -n (\S+) port-forward svc/ipa (\d+):(\d+) &")
KEY = re.compile(r"ipa_[0-9a-f]{12}_\S+")


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
        """The output of the command, run by a shell."""
        place = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "IPA_TOKEN": self.key,
            "NO_COLOR": "1",
            "COLUMNS": "160",
        }
        done = run_process(["bash", "-ec", command], cwd=self.folder, env=place | (env or {}), timeout=WAIT_S)
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def live(self, resource: str, name: str, namespace: str = NAMESPACE) -> Json:
        return self.kube.store.get(resource, namespace, name)

    def container(self) -> Json:
        """The container of the service's Deployment."""
        (container,) = self.live("deployments", "ipa")["spec"]["template"]["spec"]["containers"]
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
        return base64.b64decode(self.live("secrets", source["name"])["data"][source["key"]]).decode()

    def _mounted(self, name: str, path: str) -> Path:
        """The volume's files, which are mounted there."""
        pod = self.live("deployments", "ipa")["spec"]["template"]["spec"]
        (mount,) = (each for each in self.container()["volumeMounts"] if each["mountPath"] == path)
        (volume,) = (each for each in pod["volumes"] if each["name"] == mount["name"])
        for source in volume["projected"]["sources"]:
            data = self.live("configmaps", source["configMap"]["name"])["data"]
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
            made = loop.tick_once(ChangeRequest(wanted, "by the test"))
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
        probe_url = f"http://127.0.0.1:{self.port}{container['readinessProbe']['httpGet']['path']}"
        patience = threading.Event()
        for _ in range(int(WAIT_S / 0.1)):
            try:
                if httpx.get(probe_url, timeout=300).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.service.poll() is None, "the service ended"
            patience.wait(0.1)
        raise AssertionError("the service does not get ready")

    def stop(self) -> None:
        if self.service is not None:
            self.service.terminate()
            self.service.wait(WAIT_S)
            self.service = None

    def bind(self) -> Callable[[str, str, str, str, str], bool]:
        """Let the pod's account do what its roles allow, and nothing else."""
        name = self.live("deployments", "ipa")["spec"]["template"]["spec"]["serviceAccountName"]
        self.live("serviceaccounts", name)
        may = rights_of(self.kube.store, name, NAMESPACE)
        self.kube.api.rights[self.token] = may
        return may

    def follow(self, command: str) -> str:
        """The output of the page's command, or what it would be. A key that it makes is used from then on."""
        command = INSPECT.sub(DIGEST, command)
        program = shlex.split(command, comments=True)[0]
        if program in IMAGES:
            check_images(command)
            return ""
        if match := IN_POD.fullmatch(command):
            assert match[1] == NAMESPACE
            self.bind()
            printed = self.run(match[2].replace("/tmp/", f"{self.folder}/pod-"), self.pod(), check=False)
            self.key = self.key or next(iter(KEY.findall(printed)), "")
            return printed
        if match := ROLLOUT.fullmatch(command):
            return str(self.live("deployments", match[2], match[1])["metadata"]["name"])
        if match := FORWARD.fullmatch(command):
            port = self.live("services", "ipa", match[1])["spec"]["ports"][0]
            assert int(match[3]) == port["port"]
            self.bind()
            self.serve()
            return ""
        if program == "export":
            return ""
        if command.startswith("helm upgrade ipa "):
            # Its pod is replaced.
            self.stop()
        if command.startswith("ipa status"):
            # It is at the page's port there.
            command += f" --at http://127.0.0.1:{self.port}"
        printed = self.run(command)
        if command.startswith("ipa render digits --rate"):
            # The pods that it creates get ready.
            self.kube.tick(5)
        return printed


def check_images(command: str) -> None:
    """The targets of make are there, and an image is one that `make images` builds."""
    if command.startswith("make "):
        check_make(command)
    for name in re.findall(r"build/images:(\S+):\S+", command):
        known = {"ipa-serving/service", "ipa-serving/dataplane", "ipa-serving/charts/ipa"}
        assert name in known or (ROOT / "pipelines" / name.removeprefix("ipa/") / "runtime.py").exists()


@contextmanager
def empty_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster without the namespace, and a folder with what a person has who installs ipa there."""
    for kind in ("pipelines", "profiles"):
        shutil.copytree(ROOT / kind / "digits", folder / kind / "digits")
    (folder / "deploy").symlink_to(ROOT / "deploy")
    (folder / ".kube").mkdir()
    with FakeKube(kinds=Kinds()) as kube:
        kube.kubeconfig(folder / ".kube").rename(folder / ".kube" / "config")
        made = Cluster(kube, folder)
        try:
            yield made
        finally:
            made.stop()
