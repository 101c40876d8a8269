"""Gets the authors' published data into a folder, converted; or says which data is there.

`make data` (`python -m experiments.data`) fetches what is missing, checks digests, and converts.
`python -m experiments.data --check` fetches nothing. Without a network it says what to put where.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import httpx

from experiments.data.convert import as_json, days_of, infadapter_of, read_trace, workloads_of
from experiments.data.fetch import TIMEOUT_S, fetch
from experiments.data.sources import BY_HAND, RESULTS, SOURCES, Source
from experiments.data.used import used
from ipa.experiment.loads import data_folder
from ipa.model.errors import IpaError

# The folder, inside that of the data, with the files as they were fetched.
UPSTREAM = "upstream"


def main(words: list[str] | None = None, sources: tuple[Source, ...] = SOURCES) -> int:
    """Fetch and convert, or check; 1 if something is missing."""
    parser = argparse.ArgumentParser(prog="python -m experiments.data", description=__doc__)
    parser.add_argument("--to", type=Path, default=data_folder(), help="the folder (IPA_SHARED_DATA)")
    parser.add_argument("--check", action="store_true", help="only say which data is there")
    arguments = parser.parse_args(words)
    folder: Path = arguments.to
    if not arguments.check:
        with httpx.Client(timeout=TIMEOUT_S) as client:
            got = [fetch_and_tell(source, folder / UPSTREAM, client) for source in sources]
        archive, capacities = got
        if archive is None or capacities is None:
            return 1
        try:
            convert(folder, archive, capacities, sources[1].version)
        except IpaError as error:
            print(error, file=sys.stderr)
            return 1
    names = dict.fromkeys([*(name for source in sources for name in source.makes), *BY_HAND])
    print(used(folder, list(names)))
    missing = [name for name in names if not (folder / name).is_file()]
    for name in missing:
        what = f": {BY_HAND[name]}, which no converter makes" if name in BY_HAND else ""
        print(f"missing: {folder / name}{what}", file=sys.stderr)
    if any(name in BY_HAND for name in missing):
        print(
            f"The logs behind them are at {RESULTS}; see docs/explanation/reproduction.md.", file=sys.stderr
        )
    return 1 if any(name not in BY_HAND for name in missing) else 0


def fetch_and_tell(source: Source, folder: Path, client: httpx.Client) -> Path | None:
    """The file of the source, with its version, origin and licence on the terminal; None if it failed."""
    try:
        path = fetch(source, folder, client)
    except IpaError as error:
        print(error, file=sys.stderr)
        return None
    print(f"{path}: {source.version}; {source.origin}; licence: {source.licence}")
    return path


def convert(folder: Path, archive: Path, capacities: Path, version: str) -> None:
    """Write the converted files into the folder, each whole or not at all."""
    rates = read_trace(archive)
    made = {
        "twitter_days_01_19.txt.gz": days_of(rates),
        "ipa_workloads.json": as_json(workloads_of(rates)),
        "infadapter.json": as_json(infadapter_of(rates, capacities, version)),
    }
    for name, content in made.items():
        part = folder / f"{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)


if __name__ == "__main__":
    sys.exit(main())
