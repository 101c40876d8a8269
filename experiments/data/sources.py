"""The public files of the published data: address, version, digest, licence, and what they make."""

from __future__ import annotations

from dataclasses import dataclass

INFADAPTER = "398b18f0e932985afb9af0847a3453a4b27345c4"
IPA = "e1f08dde84e2bb721b2c78ad7ef651134abf5380"
# Neither repository has a licence file, so the files are fetched and never shipped.
UNLICENSED = "none stated: for your own use, not to be passed on"


@dataclass(frozen=True, slots=True)
class Source:
    """One public file.

    `name` is that of the file once it is here, `version` a commit of its repository, `origin` the place that
    its data comes from. `makes` are the files that are converted from it.
    """

    name: str
    url: str
    version: str
    sha256: str
    size_bytes: int
    licence: str
    origin: str
    makes: tuple[str, ...]


SOURCES = (
    Source(
        name="twitter-workload.tbz2",
        url=(
            f"https://raw.githubusercontent.com/reconfigurable-ml-pipeline/InfAdapter/{INFADAPTER}"
            "/auto_tuner/dataset/twitter_trace/workload.tbz2"
        ),
        version=f"github.com/reconfigurable-ml-pipeline/InfAdapter @ {INFADAPTER[:7]}",
        sha256="b13052c83c64d169810fe1cfec35cb6b56c96e17c023156a23c9a067e1ac66bd",
        size_bytes=1_352_422,
        licence=UNLICENSED,
        origin=(
            "requests per second of the Internet Archive's Twitter stream of August 2021 "
            "(archive.org/details/archiveteam-twitter-stream-2021-08), the trace of IPA and InfAdapter"
        ),
        makes=("twitter_days_01_19.txt.gz", "ipa_workloads.json", "infadapter.json"),
    ),
    Source(
        name="infadapter-capacity.csv",
        url=(
            f"https://raw.githubusercontent.com/reconfigurable-ml-pipeline/InfAdapter/{INFADAPTER}"
            "/auto_tuner/adapter/capacity_result_Feb_21.csv"
        ),
        version=f"github.com/reconfigurable-ml-pipeline/InfAdapter @ {INFADAPTER[:7]}",
        sha256="a901495e8cd9eb8073fa75411353aa4ae168d9d36db6ea878f0f2a5a520e386e",
        size_bytes=32_070,
        licence=UNLICENSED,
        origin="capacities of five ResNets at 1 to 20 cores (Salmani et al., EuroMLSys 2023)",
        makes=("infadapter.json",),
    ),
)

# Files that no converter makes.
BY_HAND = {
    "ipa_published.json": "mean cores and PAS of the authors' 104 runs",
    "ipa_profiles.json": "the authors' profiling rows and the settings of their two series of runs",
}
# Where the logs behind them are: the place that IPA's own script reads. Its authors publish no digest of it.
RESULTS = (
    "https://storage.googleapis.com/ipa-results-1/results.zip, as infrastructure/hack/download_data.sh of "
    f"github.com/reconfigurable-ml-pipeline/ipa @ {IPA[:7]} names it"
)
