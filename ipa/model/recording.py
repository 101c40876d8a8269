"""Metadata that says how records hold a field of a dataclass (`ipa.control.canonical`)."""

from __future__ import annotations

RECORDED = "recorded"
# A field younger than some records: records lack it at its default, so that equal values keep their digest.
UNLESS_DEFAULT = {RECORDED: "unless default"}
# A field that follows from values with a digest of their own, such as a pipeline's figures from its profiles.
NEVER = {RECORDED: "never"}
