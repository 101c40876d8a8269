"""Metadata of dataclass fields that says how records hold them (`ipa.control.canonical`)."""

from __future__ import annotations

# A field younger than some records: records lack it at its default, so that equal values keep their digest.
UNLESS_DEFAULT = {"recorded_unless_default": True}
# A field that follows from values with a digest of their own, such as a pipeline's figures from its profiles.
NEVER = {"not_recorded": True}
