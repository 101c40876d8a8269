"""`ipa fit`: how well profiles fit, where they come from and what is found."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.commands import Ipa


@pytest.fixture(autouse=True)
def house(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pipeline ocr and its profiles, measured today."""
    for name in ("pipelines", "profiles"):
        (tmp_path / name).mkdir()
        shutil.copytree(root / name / "ocr", tmp_path / name / "ocr")
    for file in (tmp_path / "profiles" / "ocr").iterdir():
        change(file, measured_on=today())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def today() -> str:
    return datetime.now(UTC).date().isoformat()


def change(file: Path, **values: Any) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text("utf-8")) | values), encoding="utf-8")


def fitted(ipa: Ipa, *arguments: str, code: int = 0) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(ipa("fit", *arguments, "-o", "json", code=code).out)
    return report


def test_text_has_a_row_a_fit(ipa: Ipa) -> None:
    out = ipa("fit", "ocr").out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == f"Stage ocr/detect measured on {today()}, today by ipa profile ocr"
    assert lines[1].startswith("on 2 cores, AMD")
    assert "variant accuracy cores batch R² error left out latency ms rps" in lines
    assert "v6-640 0.9955 0.25 1 to 2 1.00 0% – 419 to 901 2.36" in lines
    assert any(line.endswith(" 1 1 to 8 1.00 2% 5% 101 to 857 9.58") for line in lines)
    assert out.endswith("No findings.\n")


def test_json_has_all_of_it(ipa: Ipa) -> None:
    report = fitted(ipa, "ocr")
    assert [(each["stage"], each["measured_on"], each["age_days"]) for each in report["stages"]] == [
        ("detect", today(), 0),
        ("recognise", today(), 0),
    ]
    assert {"hardware", "method", "source", "load_rps", "fits"} <= set(report["stages"][0])
    row = report["stages"][0]["fits"][0]
    assert (row["variant"], row["cores"], row["batch_sizes"]) == ("v6-224", 0.25, [1, 2, 4, 8])
    assert row["throughput_rps"] == 15.39
    assert report["findings"] == []


def test_only_the_stages_that_are_named(ipa: Ipa) -> None:
    report = fitted(ipa, "ocr", "--stage", "recognise", "--strict")
    assert [each["stage"] for each in report["stages"]] == ["recognise"]
    assert report["findings"] == []
    assert ipa("fit", "ocr", "-s", "recognise").out.endswith("No findings.\n")
    assert "no stage 'crop'" in ipa("fit", "ocr", "-s", "recognise", "-s", "crop", code=1).err


def test_strict_ends_with_3_where_something_is_found(house: Path, ipa: Ipa) -> None:
    file = house / "profiles" / "ocr" / "recognise.yaml"
    change(file, measured_on="2020-01-31")
    for form in ("text", "json", "yaml", "md"):
        assert "2020-01-31" in ipa("fit", "ocr", "--strict", "-o", form, code=3).out
    report = fitted(ipa, "ocr", "--stage", "recognise", "--strict", code=3)
    assert [each["kind"] for each in report["findings"]] == ["old"]


def test_what_is_missing_and_what_is_too_much(house: Path, ipa: Ipa) -> None:
    folder = house / "profiles" / "ocr"
    document = yaml.safe_load((folder / "recognise.yaml").read_text("utf-8"))
    document["variants"][0]["variant"] = "other"
    change(folder / "recognise.yaml", variants=document["variants"])
    (folder / "detect.yaml").unlink()
    change(shutil.copy(folder / "recognise.yaml", folder / "old.yaml"), stage="old")
    report = fitted(ipa, "ocr")
    assert [each["stage"] for each in report["stages"]] == ["recognise", "old"]
    assert [(each["kind"], each["stage"], each["variant"]) for each in report["findings"]] == [
        ("not_measured", "detect", None),
        ("not_measured", "recognise", "v4-160"),
        ("not_in_pipeline", "recognise", "other"),
        ("not_in_pipeline", "old", None),
    ]
    out = ipa("fit", "ocr").out
    assert "  detect: in the pipeline and not measured: there is no plan until it is" in out


def test_what_goes_wrong_gets_a_message(ipa: Ipa) -> None:
    assert "no pipeline 'none'" in ipa("fit", "none", code=1).err
