"""CITATION.cff and the citation that reports print say the same."""

from __future__ import annotations

from pathlib import Path

import yaml

import ipa
from ipa.experiment.provenance import CITE_AUTHOR, CITE_PAPER, CITE_TITLE, provenance


def test_the_citation_is_that_of_the_file(root: Path) -> None:
    file = yaml.safe_load((root / "CITATION.cff").read_text())
    assert (file["cff-version"], file["title"], file["version"]) == ("1.2.0", CITE_TITLE, ipa.__version__)
    assert [author["name"] for author in file["authors"]] == [CITE_AUTHOR]
    assert file["references"][0]["title"] in CITE_PAPER
    found = provenance("local processes").citation
    assert f"title = {{{CITE_TITLE}}}" in found
    assert f"author = {{{{{CITE_AUTHOR}}}}}" in found
    assert f"license = {{{file['license']}}}" in found
