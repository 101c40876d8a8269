"""The published data fetched over real HTTP, and nothing kept but the pinned bytes; its conversion."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from experiments.data import __main__ as command
from experiments.data.convert import DAY_S, EXPERIMENT, SECONDS
from experiments.data.sources import BY_HAND, SOURCES, Source
from ipa.experiment.loads import rates_of
from ipa.experiment.runners import WorkloadArm
from ipa.files.traces import read_rates
from tests.fakes.answering import Listening, Quiet

TRACE = np.random.default_rng(1).integers(0, 388, SECONDS + 7).tolist()
HEAD = "REPLICA,CPU,ARCH,SLA,p99_latency,capacity,saturation_tp\n"
NETWORKS = (18, 34, 50, 101, 152)
ROWS = "".join(
    f"1,{cores},{network},750,{'' if cores == 1 else 400.5},{10 * cores - 4.5},{12 * cores}\n"
    for network in NETWORKS
    for cores in range(20, 0, -1)
)


def archive() -> bytes:
    words = " ".join(map(str, TRACE)).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2", compresslevel=1) as made:
        member = tarfile.TarInfo("workload.txt")
        member.size = len(words)
        made.addfile(member, io.BytesIO(words))
    return buffer.getvalue()


class Upstream(Quiet, BaseHTTPRequestHandler):
    """Serves `bodies` by path; /moved redirects, /cut ends half way, all else is not there."""

    bodies: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/trace")
            self.end_headers()
            return
        body = self.bodies.get("/trace" if self.path == "/cut" else self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write((body or b"")[: len(body or b"") // 2 if self.path == "/cut" else None])


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    Upstream.bodies = {"/trace": archive(), "/rows": (HEAD + ROWS).encode(), "/other": b"another file"}
    with Listening(Upstream) as made:
        yield made.url


def sources(server: str, trace: str = "/trace", rows: str = "/rows") -> tuple[Source, ...]:
    """The sources at this server, with the digests of its files."""
    return tuple(
        replace(source, url=server + path, sha256=hashlib.sha256(body).hexdigest(), size_bytes=len(body))
        for source, path, body in (
            (SOURCES[0], trace, Upstream.bodies["/trace"]),
            (SOURCES[1], rows, Upstream.bodies["/rows"]),
        )
    )


def test_it_is_fetched_once_checked_and_converted(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--to", str(tmp_path)], sources(server, "/moved")) == 0
    said = capsys.readouterr()
    for source in SOURCES:
        assert source.version in said.out and source.licence in said.out
    for name in ("twitter_days_01_19.txt.gz", "ipa_workloads.json", "infadapter.json"):
        digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert f"data: {tmp_path / name} sha256 {digest}" in said.out
    # What cannot be made is named with its place.
    assert all(f"missing: {tmp_path / name}" in said.err for name in BY_HAND)
    assert "results.zip" in said.err
    assert list(read_rates(tmp_path / "twitter_days_01_19.txt.gz")) == TRACE[: 19 * DAY_S]
    patterns = json.loads((tmp_path / "ipa_workloads.json").read_text())["patterns"]
    assert {len(rates) for rates in patterns.values()} == {1200}
    assert patterns["bursty"][:3] == [rate // 8 for rate in TRACE[1301160:1301163]]
    arm = WorkloadArm("slice", shared="infadapter.json", at="/traces/experiment_slice/per_second")
    assert rates_of(arm, tmp_path) == TRACE[slice(*EXPERIMENT)]
    task = json.loads((tmp_path / "infadapter.json").read_text())
    assert task["capacity_profile"][0] == [750, 18, 1, 5.5, None, 12.0]
    line = {"slope": 10.0, "intercept": -4.5, "r2_on_all_20": 1.0, "used_intercept": -4}
    assert task["capacity_regression_used"] == {"750": {f"resnet{network}": line for network in NETWORKS}}
    # Again without any network: the files that are there serve, and give the same bytes.
    before = (tmp_path / "infadapter.json").read_bytes()
    assert command.main(["--to", str(tmp_path)], sources("http://127.0.0.1:1")) == 0
    assert (tmp_path / "infadapter.json").read_bytes() == before


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/other", "has 12 bytes with SHA-256 {other}, not {size} with {digest}"),
        ("/cut", "cannot be fetched: peer closed connection"),
        ("/gone", "404"),
        (None, "cannot be fetched"),
    ],
)
def test_nothing_is_kept_of_what_is_not_the_pinned_file(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str | None, says: str
) -> None:
    wanted = sources(server, path) if path else sources("http://127.0.0.1:1")
    assert command.main(["--to", str(tmp_path)], wanted) == 1
    said = capsys.readouterr().err
    other = hashlib.sha256(Upstream.bodies["/other"]).hexdigest()
    assert says.format(other=other, size=wanted[0].size_bytes, digest=wanted[0].sha256) in said
    # Each file is fetched or told for itself.
    assert not (tmp_path / "upstream" / wanted[0].name).exists()
    if path != "/other":
        # What to do without a network: which file, and where to put it.
        assert f"Fetch {wanted[0].url} elsewhere" in said
        assert f"put it at {tmp_path / 'upstream' / SOURCES[0].name}" in said


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (SOURCES[0].name, b"not an archive", " is no archive of a workload.txt"),
        (SOURCES[1].name, HEAD.encode() + b"1,one,18,750,4,5,6\n", ":2: not a row of capacities"),
    ],
)
def test_a_file_that_is_not_what_its_source_was_is_refused_with_its_place(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, says: str
) -> None:
    place = tmp_path / "upstream" / name
    place.parent.mkdir()
    place.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    wanted = tuple(replace(it, sha256=digest) if it.name == name else it for it in sources(server))
    assert command.main(["--to", str(tmp_path)], wanted) == 1
    assert f"{place}{says}" in capsys.readouterr().err


def test_a_check_fetches_nothing(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--check", "--to", str(tmp_path)], sources("http://127.0.0.1:1")) == 1
    assert f"data: none in {tmp_path}" in capsys.readouterr().out
    (tmp_path / "ipa_workloads.json").write_bytes(gzip.compress(b""))
    assert command.main(["--check", "--to", str(tmp_path)], sources("http://127.0.0.1:1")) == 1
    assert f"data: {tmp_path / 'ipa_workloads.json'} sha256" in capsys.readouterr().out
