"""Experiments, run with the package as it is installed."""

import os

# As the script `ipa` does, before numpy is there.
os.environ.setdefault("OMP_NUM_THREADS", "1")
