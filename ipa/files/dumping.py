"""Values as the YAML that people write: read back, they are the same values."""

from __future__ import annotations

from typing import Any

import yaml

from ipa.files.document import resolve_plain


class FlowMapping(dict[str, Any]):
    """A mapping that is written on one line."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that our reader would take for something else, and indents lists as people do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        return super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = '"' if not isinstance(resolve_plain(text), str) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_flow(dumper: yaml.SafeDumper, mapping: FlowMapping) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", mapping, flow_style=True)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(FlowMapping, _represent_flow)
# Dates are text to our reader; without this the writer would quote them.
_Dumper.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}


def dump_yaml(data: dict[str, Any]) -> str:
    """The text of a mapping, in its order."""
    return str(
        yaml.dump(
            data, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True, default_flow_style=False
        )
    )
