"""`python -m experiments.soak`: 26 000 ticks of the control loop under random faults, as a table."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

from tests.faults.soak import soak, table


def main() -> int:
    """0 where no invariant was broken and everything settled again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=26_000, help="of 10 s each; 26 000 are 72 hours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/soak"), help="folder of table.txt and soak.json"
    )
    arguments = parser.parse_args()
    # What the loop says of each fault would be a hundred thousand lines; the checker of secrets hears them.
    logging.getLogger("ipa").propagate = False
    began_s = time.monotonic()
    bad = soak(arguments.ticks, arguments.seed)
    good = soak(arguments.ticks // 4, arguments.seed, with_faults=False)
    text = table(bad, good, time.monotonic() - began_s)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "table.txt").write_text(text + "\n", encoding="utf-8")
    (arguments.out / "soak.json").write_text(json.dumps([vars(bad), vars(good)], indent=1), encoding="utf-8")
    print(text)
    return int(bool(bad.violations) or bad.never > 0)


if __name__ == "__main__":
    sys.exit(main())
