"""The revision that `ipa ci` compares the work tree with."""

from __future__ import annotations

from pathlib import Path

from ipa.service.review.revisions import BaseRevision
from ipa.targets.gitops.command import Base

# A large repository on a slow disk; beyond that something hangs.
GIT_TIMEOUT_S = 60.0


def base_revision(folder: Path, ref: str) -> BaseRevision:
    """The newest commit that the work tree at `folder` and `ref` have in common.

    UsageError: no work tree, no such ref, no common commit.
    """
    return Base(folder, ref, GIT_TIMEOUT_S)
