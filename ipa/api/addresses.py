"""Parts of addresses: ids beside which a verb may stand, as in /v1/plans/ID:apply."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor


class _Id(Convertor[str]):
    """Text without a slash, which ends it, and without a colon, after which the verb comes."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", _Id())
PLAN = "/plans/{plan_id:id}"
EXPERIMENT = "/{experiment_id:id}"
