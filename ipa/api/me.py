"""The route that says to who asks who they are taken for, and what they may do where."""

from __future__ import annotations

from fastapi import APIRouter

from ipa.api.auth import Asker
from ipa.service.access import MeView, rights_of

router = APIRouter(prefix="/v1", tags=["health"])


@router.get("/me")
def get_me(asker: Asker) -> MeView:
    """Who asks, and what they may do with each pipeline that they may see.

    For showing what is worth offering: each request is checked anew, and may be refused nevertheless.
    """
    return rights_of(asker)
