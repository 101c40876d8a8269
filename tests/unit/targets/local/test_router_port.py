"""The port that takes a local pipeline's requests: fixed by settings and files, kept over restarts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from socket import socket

import pytest

from ipa.files import pipeline_from_mapping, pipeline_to_mapping
from ipa.model.errors import InputError, UnavailableError
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings
from ipa.targets.local import front
from ipa.targets.local.section import LocalPlace
from ipa.targets.local.target import router_ports
from tests.fakes.services import a_pipeline


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(front.listening_socket()) as other:
        yield other.getsockname()[1]


def opened(port: int, port_file: Path) -> int:
    with closing(front.router_socket(port, port_file)) as made:
        assert isinstance(made, socket)
        return int(made.getsockname()[1])


def test_the_port_of_the_last_run_is_taken_again_until_another_has_it(tmp_path: Path) -> None:
    port_file = tmp_path / "ocr" / "router.port"
    first = opened(0, port_file)
    assert opened(0, port_file) == first
    with closing(front.listening_socket(first)):
        second = opened(0, port_file)
    assert second != first
    assert opened(0, port_file) == second, "the newest is kept"
    port_file.write_text("no port")
    assert opened(0, port_file) > 0
    fixed = opened(first, port_file)
    assert fixed == first == opened(0, port_file)


def test_a_fixed_port_that_is_in_use_is_refused_with_the_remedy(
    taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "PORT_S", 0.0)
    with pytest.raises(UnavailableError, match=f"127.0.0.1:{taken}: ") as refused:
        front.router_socket(taken, tmp_path / "port")
    assert "IPA_ROUTER_PORT" in refused.value.hint and "local: {port: ...}" in refused.value.hint


def test_a_fixed_port_is_waited_for_while_a_killed_service_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = front.listening_socket()
    port = int(other.getsockname()[1])
    monkeypatch.setattr(front.time, "sleep", lambda _: other.close())
    assert opened(port, tmp_path / "port") == port


def named(name: str, port: int | None = None) -> Pipeline:
    targets = {} if port is None else {"local": LocalPlace(port)}
    return replace(a_pipeline(), name=name, targets=targets)


def test_pipelines_have_the_ports_of_their_files_and_the_others_the_next_ones() -> None:
    pipelines = {it.name: it for it in (named("c"), named("b", 9001), named("a"), named("d"))}
    assert router_ports(Settings(), pipelines) == {"a": 0, "b": 9001, "c": 0, "d": 0}
    fixed = router_ports(Settings(router_port=9000), pipelines)
    assert fixed == {"a": 9000, "b": 9001, "c": 9002, "d": 9003}
    with pytest.raises(InputError, match="the files of b, e have the same"):
        router_ports(Settings(), {**pipelines, "e": named("e", 9001)})


def test_the_port_is_read_from_the_file_and_written_back(root: Path) -> None:
    given = pipeline_to_mapping(named("ocr", 9000)) | {"seldon": {"name": "ocr"}}
    assert given["local"] == {"port": 9000}
    assert pipeline_from_mapping(given).targets["local"] == LocalPlace(9000)
    for wrong in (0, 65_536, "9000"):
        with pytest.raises(InputError, match=r"local\.port|port"):
            pipeline_from_mapping({**given, "local": {"port": wrong}})
