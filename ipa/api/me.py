"""The route that returns the caller's identity and rights."""

from __future__ import annotations

from fastapi import APIRouter

from ipa.api.auth import CurrentCaller
from ipa.service.access import MeView, rights_of

router = APIRouter(prefix="/v1", tags=["health"])


@router.get("/me")
def get_me(caller: CurrentCaller) -> MeView:
    """Return the name of the caller and its rights with each visible pipeline.

    For a page that hides what is not allowed: each request is checked again, and may still be refused.
    """
    return rights_of(caller)
