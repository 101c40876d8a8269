"""Request bodies that are files: a pipeline or a profile, as JSON or as YAML, and merge patches of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from ipa.api.limits import MOST_YAML_VALUES, off_loop, shortened
from ipa.files import Document, parse
from ipa.model.errors import InputError, Problem

JSON, YAML, MERGE_PATCH = "application/json", "application/yaml", "application/merge-patch+json"
# Media types of YAML, with those in use before RFC 9512.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
YAMLS = frozenset({YAML, "application/x-yaml", "text/yaml"})


def media_type(request: Request) -> str:
    """The media type of the body, without its parameters; JSON if there is none."""
    return request.headers.get("content-type", JSON).partition(";")[0].strip().lower()


async def _body_of(request: Request) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(_body_of)]


async def document_of(request: Request, body: Body) -> Document:
    """The body as a file; 415 if it is neither JSON nor YAML, InputError lists its faults."""
    kind = media_type(request)
    if kind not in (JSON, *YAMLS):
        raise HTTPException(415, f"a body of {kind} is not taken here; send {JSON} or {YAML}")
    parsing = request.app.state.context.limits.parsing
    return await off_loop(parsing, len(body), _document_in, body, kind in YAMLS)


def _document_in(body: bytes, is_yaml: bool) -> Document:
    if is_yaml:
        return parse(_text(body), "", MOST_YAML_VALUES, "send it as JSON")
    return Document("", parse_json(_text(body)))


async def patch_of(request: Request, body: Body) -> dict[str, Any]:
    """The body as a merge patch (RFC 7396); 415 for another type, InputError if it is no object."""
    kind = media_type(request)
    if kind not in (MERGE_PATCH, JSON):
        raise HTTPException(415, f"a body of {kind} is not taken here; send {MERGE_PATCH}")
    parsing = request.app.state.context.limits.parsing
    patch = await off_loop(parsing, len(body), lambda: parse_json(_text(body)))
    if not isinstance(patch, dict):
        raise _wrong("a merge patch is an object")
    return patch


DocumentBody = Annotated[Document, Depends(document_of)]
PatchBody = Annotated[dict[str, Any], Depends(patch_of)]


def merged(target: Any, patch: Any) -> Any:
    """The target with the patch applied (RFC 7396): null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def parse_json(text: str) -> Any:
    """The value of a JSON text. InputError if it is no JSON, has a key twice, or NaN."""
    try:
        found = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except RecursionError:
        raise _wrong("nested too deeply") from None
    except UnicodeEncodeError:
        raise _wrong("not JSON: half of a surrogate pair is no character") from None
    except ValueError as error:
        raise _wrong(f"not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"key {shortened(twice)!r} is there twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _wrong("the body is not UTF-8") from None


def _wrong(message: str) -> InputError:
    return InputError("the request's body cannot be read", problems=[Problem(message)])


def schema_of(kind: str) -> dict[str, Any]:
    """A reference to the schema of that kind of file, which `openapi_extras.file_schemas` adds."""
    return {"$ref": f"#/components/schemas/{kind.capitalize()}File"}


def body_of(kind: str, example: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of the OpenAPI document for a body that is that kind of file."""
    schema = schema_of(kind)
    content = {JSON: {"schema": schema, "example": dict(example)}, YAML: {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}
