"""The page on installing as it is printed: its commands, in their order, and what there is then."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from tests.deploy.rendering import ROOT, Json, tool
from tests.fakes.installing import DIGEST, KEY, NAMESPACE, Cluster, empty_cluster
from tests.fakes.kube.api import SELF_REVIEWS
from tests.fakes.kube.kinds import rights_of

PAGE = (ROOT / "docs" / "how-to" / "install-on-a-cluster.md").read_text()
BLOCK = re.compile(r"^( *)```(bash|yaml)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SDEP = ("machinelearning.seldon.io", "seldondeployments", NAMESPACE, "digits")
# What every account may ask.
OF_ALL = ("version", "discovery")


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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    for name in ("kubectl", "helm"):
        tool(name)
    with empty_cluster(tmp_path) as made:
        yield made


def test_the_page_installs_what_it_says_as_printed(cluster: Cluster) -> None:
    printed: dict[str, str] = {}
    for command in commands("1. **Build", "## With kustomize"):
        if command.startswith("helm upgrade ipa "):
            may_before = rights_of(cluster.kube.store, "ipa", NAMESPACE)("patch", *SDEP)
        printed[command] = cluster.follow(command)
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
    requests = [one for one in cluster.kube.requests if one.token == cluster.token]
    requests = [one for one in requests if one.resource not in (*OF_ALL, *SELF_REVIEWS)]
    # A namespace is an object of itself, as the API server has it.
    requests = [replace(one, namespace=one.name) if one.resource == "namespaces" else one for one in requests]
    denied = [one for one in requests if not may(one.verb, one.group, one.resource, one.namespace, one.name)]
    # Who may create asks the operator's webhook by a dry run; the account may not, and doctor takes that.
    assert {(one.verb, one.resource) for one in denied} == {("create", "seldondeployments")}
    assert {one.namespace for one in requests} == {NAMESPACE}
    for command in commands("## Two installs", "## What the cluster"):
        assert "digits" in cluster.follow(command)
    operate(cluster)


def operate(cluster: Cluster) -> None:
    """The page of a running install: changes, more namespaces and teams, up, down and away."""
    kube, template = cluster.kube, cluster.live("deployments", "ipa")["spec"]["template"]
    assert "annotations" not in template["metadata"], "changed files are no reason to replace pods"
    *commands_of, overlay, applied = commands("## Change a pipeline", "## Several namespaces")
    for command in commands_of:
        cluster.follow(command)
    assert "latency: 200ms" in cluster.live("configmaps", "ipa-pipeline-digits")["data"]["pipeline.yaml"]
    assert cluster.live("deployments", "ipa")["spec"]["template"] == template
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
        for each in cluster.live("deployments", "ipa", "speech")["spec"]["template"]["spec"]["containers"]
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
        == (cluster.live("configmaps", "ipa-pipeline-digits")["data"])
    )
    ours = documents["Deployment", "ipa"]["spec"]["template"]["spec"]
    theirs = cluster.live("deployments", "ipa")["spec"]["template"]["spec"]

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
    assert cluster.live("persistentvolumeclaims", "ipa-store")
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
