"""Plug-ins are found by name, and each way in which one can be wrong is one short, named error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa import plugins
from ipa.model.errors import InputError, IpaError, PluginError, UsageError
from ipa.plugins import OURS, Plugin, Registry

BUILT_IN = {"round": "ipa.model.recording:to_ms", "sums": "math:fsum"}


@pytest.fixture(name="registry")
def _registry() -> Registry:
    return Registry("ipa.tested", "tool", BUILT_IN)


@pytest.fixture(name="installed")
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two packages that declare tools: one of a name of their own each, and one of the same name."""
    for package, version in (("acme", "1.2"), ("other", "3")):
        metadata = tmp_path / f"{package}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = [f"{package}-tool = {package}_tools:Inner.tool", f"both = {package}_tools:Inner"]
        (metadata / "entry_points.txt").write_text("[ipa.tested]\n" + "\n".join(lines) + "\n")
        (tmp_path / f"{package}_tools.py").write_text(f"class Inner:\n    tool = '{package}'\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.installed.cache_clear()
    yield
    plugins.installed.cache_clear()


def test_built_in_ones_are_found_in_their_order(registry: Registry) -> None:
    assert list(registry) == ["round", "sums"]
    assert len(registry) == 2
    assert registry.load("sums")([0.5, 0.5]) == 1.0
    assert registry.find("sums").is_ours
    assert str(registry.find("sums")) == f"tool 'sums' (package {OURS})"


@pytest.mark.usefixtures("installed")
def test_installed_ones_come_after_them(registry: Registry) -> None:
    assert list(registry) == ["round", "sums", "acme-tool", "both", "other-tool"]
    assert registry.load("acme-tool") == "acme"
    assert registry.find("acme-tool") == Plugin("tool", "acme-tool", "acme_tools:Inner.tool", "acme 1.2")
    assert not registry.find("acme-tool").is_ours


@pytest.mark.usefixtures("installed")
def test_a_name_of_two_packages_is_refused_with_both(registry: Registry) -> None:
    with pytest.raises(PluginError, match=r"tool 'both' is declared by acme 1\.2 and other 3") as caught:
        registry.load("both")
    assert "module:attribute" in caught.value.hint
    assert registry.load("other-tool") == "other"


@pytest.mark.usefixtures("installed")
def test_no_package_takes_a_name_of_ours_quietly() -> None:
    with pytest.raises(PluginError, match=r"declared by ipa-serving and acme 1\.2"):
        Registry("ipa.tested", "tool", {"acme-tool": "math:fsum"}).find("acme-tool")


def test_an_unknown_name_lists_the_known_ones(registry: Registry) -> None:
    with pytest.raises(UsageError, match="there is no tool 'nothing'") as caught:
        registry.find("nothing")
    assert caught.value.hint == "There are: round, sums"


def test_code_by_reference_is_loaded_only_once_it_was_admitted(registry: Registry) -> None:
    reference = "math:pow"
    with pytest.raises(UsageError, match="there is no tool 'math:pow'") as caught:
        registry.load(reference)
    assert "from the command line and the settings" in caught.value.hint
    assert registry.admit(reference) == reference
    assert registry.load(reference)(2, 3) == 8
    assert registry.is_known(reference)
    # What a request may name stays what is installed.
    assert reference not in registry
    assert reference not in list(registry)
    assert registry.admit("sums") == "sums"


def test_what_is_here_can_be_named(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named_from_here.py").write_text("class Mine:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != ""])
    registry.admit("named_from_here:Mine")
    assert registry.load("named_from_here:Mine").__name__ == "Mine"


@pytest.mark.parametrize("reference", ["a b:c", ":x", "x:", "os:system()", "-m:x", "x:y:z"])
def test_what_is_no_reference_is_said_to_be_none(registry: Registry, reference: str) -> None:
    with pytest.raises(UsageError, match="names no tool"):
        registry.admit(reference)


FAULTS = [
    ("no_such_module_anywhere:x", "cannot be imported: ModuleNotFoundError: No module named"),
    ("math:no_such_function", "is not there: module math has no no_such_function"),
    ("broken_at_import:x", "cannot be imported: ValueError: two lines"),
    ("leaving_at_import:x", "cannot be imported: SystemExit: 3"),
]


@pytest.mark.parametrize(("reference", "words"), FAULTS)
def test_what_cannot_be_loaded_says_why(
    registry: Registry, reference: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_at_import.py").write_text("raise ValueError('two\\nlines')\n")
    (tmp_path / "leaving_at_import.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError) as caught:
        registry.admit(reference)
    assert caught.value.message.startswith(f"tool {reference!r} {words}")
    assert caught.value.__cause__ is not None
    assert not registry.is_known(reference)


def test_an_exception_is_named_with_its_plug_in_and_an_error_of_ours_stays_as_it_is() -> None:
    plugin = Plugin("tool", "acme", "acme_tools:tool", "acme 1.2")
    with pytest.raises(PluginError) as caught, plugin.guarded():
        raise ValueError("x" * 1000)
    assert caught.value.message.startswith("tool 'acme' (package acme 1.2) raised ValueError: xxx")
    assert len(caught.value.message) < 400
    for error in (InputError("said"), PluginError("said")):
        with pytest.raises(IpaError) as same, plugin.guarded():
            raise error
        assert same.value is error
    with pytest.raises(KeyboardInterrupt), plugin.guarded():
        raise KeyboardInterrupt


def test_what_is_missing_of_a_protocol_is_listed() -> None:
    plugin = Plugin("tool", "acme", "acme_tools:tool", "acme 1.2")
    plugin.check_has("text", "upper", "lower")
    with pytest.raises(PluginError, match="does not fit: a str has no decide, name"):
        plugin.check_has("text", "decide", "upper", "name")
