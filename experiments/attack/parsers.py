"""The parsers of what a client sends, as functions of a text, with the fragments that may make them slow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httptools
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from ipa.adapters.store import state as keys
from ipa.api import auth, gate
from ipa.api.app import create_app
from ipa.api.bodies import PIPELINE, PROFILE
from ipa.api.gate import structure_fault
from ipa.api.limits import (
    BODY_LIMIT_BYTES,
    HEADERS_LIMIT_BYTES,
    JSON_LIMIT_BYTES,
    MOST_YAML_VALUES,
    JsonRoute,
)
from ipa.api.pipelines import parse_json
from ipa.api.queries import required_match
from ipa.files import (
    Document,
    parse,
    pipeline_in,
    profile_in,
)
from ipa.files.document import resolve_plain
from ipa.model.errors import IpaError
from ipa.model.forms import DURATION, MEMORY, RATE
from tests.fakes.services import FakeWorld

# R4: what 100 kB may take. R1 asks the same of the event loop for 1 MB, which is parsed beside it: there the
# bound is for the parser itself, which other requests wait for.
BODY_BYTES = 100_000
BODY_S = 0.05


@dataclass(frozen=True, slots=True)
class Parser:
    """A parser, the places and units of its inputs, and the time it may take at its largest size."""

    name: str
    parse: Callable[[Any], object]
    places: tuple[str, ...]
    units: tuple[str, ...]
    size_bytes: int = BODY_BYTES
    bound_s: float = BODY_S
    encode: Callable[[str], Any] = str


def quiet(parse_it: Callable[[Any], object]) -> Callable[[Any], object]:
    """The parser, with its refusals taken for answers."""

    def parsed(value: Any) -> object:
        try:
            return parse_it(value)
        except (
            IpaError,
            HTTPException,
            RequestValidationError,
            httptools.HttpParserError,
            httptools.HttpParserUpgrade,
            ValueError,
        ) as error:
            # An answer shows it.
            return str(error)

    return parsed


JSON_UNITS = (
    *("1,", "1e9,", '"a",', '"a#",', "[],", "{},", "[1],", "null,", "true,", "#,", "-1,", '"",', "1.5,"),
    *('{"name":"a#"},', '{"name":"a"},', '{"a":{}},', "[[]],", '{"cores":#,"batch":1},', '{"#":[#]},'),
    *(
        '"k#":1,',
        '"k":1,',
        '"k#":{},',
        '"k#":[],',
        '"k#":"v#",',
        '"a#":{"after":"a"},',
        '"a#":{"after":["b"]},',
    ),
    *(
        '\\"',
        "\\\\",
        '"',
        "\\u0041",
        "\\ud800",
        "9",
        "0",
        "a",
        "[",
        "{",
        "]",
        "}",
        ",",
        ":",
        " ",
        "\n",
        "é",
        ".",
        "e",
    ),
)
JSON_PLACES = (
    "@",
    "[@]",
    '{"a":"@"}',
    '{"a":"@',
    "{@}",
    '["@',
    '{"a":[@',
    '{"a":@}',
    "[[@]]",
    '{"@":1}',
    "-@",
    "0.@",
)


def holes(document: Mapping[str, Any]) -> Iterable[str]:
    """The JSON document with a hole in each of its places in turn: in lists, in objects, in texts."""

    def walk(value: Any) -> Iterable[Any]:
        yield HOLE_VALUE
        if isinstance(value, Mapping):
            yield {**value, HOLE_KEY: 0}
            for key, inner in value.items():
                for changed in walk(inner):
                    yield {**value, key: changed}
        elif isinstance(value, list):
            yield [*value, HOLE_ITEM]
            for index, inner in enumerate(value):
                for changed in walk(inner):
                    yield [*value[:index], changed, *value[index + 1 :]]
        elif isinstance(value, str):
            yield f"{value}{HOLE_TEXT}"

    for each in walk(document):
        text = json.dumps(each, separators=(",", ":"))
        text = text.replace(f'"{HOLE_KEY}":0', "@").replace(f'"{HOLE_ITEM}"', "@").replace(HOLE_TEXT, "@")
        if HOLE_VALUE in text:
            for around in ("@", "[@]", "{@}", '"@"'):
                yield text.replace(f'"{HOLE_VALUE}"', around)
        else:
            yield text


HOLE_VALUE, HOLE_KEY, HOLE_ITEM, HOLE_TEXT = "HOLE-VALUE", "HOLE-KEY", "HOLE-ITEM", "HOLE-TEXT"
# Every kind of place that the schema of a pipeline has.
WIDE: Mapping[str, Any] = {
    **json.loads(json.dumps(PIPELINE)),
    "graph": {
        "describe": {"after": ["a"], "shares": {"a": 1}},
        "b": {"after": {"a": {"fan_out": {"small": 2}}}},
    },
    "seldon": {"namespace": "x", "labels": {"a": "b"}},
    "stages": [
        {
            "name": "describe",
            "container": "c",
            "fan_out": {"small": 1.5},
            "bounds": {"batch_sizes": [1, 2], "min_replicas": 1},
            "pin": {"variant": "small"},
            "variants": [
                {
                    "name": "small",
                    "seldon": {"env": {"A": "b"}, "memory": "1GiB", "image": "x"},
                    "local": {
                        "implementation": "a.b",
                        "parameters": {"a": 1},
                        "command": ["x"],
                        "env": {"A": "b"},
                    },
                }
            ],
        }
    ],
}
YAML_PLACES = (
    *(
        "@",
        "[@]",
        "{@}",
        "a: @",
        '"@',
        "'@",
        "a: |\n  @",
        "a: >\n @",
        "- @",
        "%TAG ! @",
        "? @",
        "&a @",
        "a: [@",
        "{a: @",
    ),
    *(
        "apiVersion: ipa/v1\nkind: Pipeline\nstages:\n@",
        "stages: [@]",
        "objectives: {@}",
        "# @",
        "--- @",
        "a: &x [@]\nb: *x",
    ),
)
YAML_UNITS = (
    *(
        "a: 1\n",
        "k#: 1\n",
        "- 1\n",
        "- a#\n",
        "1,",
        "a,",
        "[],",
        "{},",
        "k#: 1,",
        "? ",
        "- ",
        "[",
        "{",
        "a",
        " ",
        "\n",
    ),
    *(
        '\\"',
        "''",
        "\\x41",
        "&a# x\n",
        "- &a# x\n",
        "- *a\n",
        "*x,",
        "!t ",
        "%TAG !a#! x\n",
        "%a\n",
        "#\n",
        ": ",
        "\t",
    ),
    *(
        "- name: a#\n",
        "  k#: v\n",
        "é",
        "---\n",
        "...\n",
        "|\n",
        ">\n",
        "- - 1\n",
        "-",
        ",",
        "9",
        "k#: {}\n",
        "- {}\n",
    ),
)
HEADER_UNITS = (
    *(
        '"',
        "W/",
        'W/"a",',
        '"a",',
        "a",
        ",",
        " ",
        ";",
        "=",
        "0",
        "9",
        ".",
        ":",
        "-",
        "_",
        "[",
        "]",
        "\\",
        "/",
        "e",
        "*",
    ),
    *("Bearer ", "ipa_", "ms", "\t", "eyJ", "'", "(", "a#", "é", "A0", "f:"),
)
HEADER_PLACES = (
    "@",
    '"@',
    '@"',
    "W/@",
    "Bearer @",
    "ipa_@",
    "a@!",
    "1@",
    "1.@x",
    "[@]:1",
    "[@",
    "0@ ",
    "-@",
    "a@\n",
)


def _head(raw: bytes) -> object:
    lines: list[bytes] = []

    class Head:
        def on_url(self, url: bytes) -> None:
            lines.append(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            lines.append(name.lower() + value.strip())

    parser = httptools.HttpRequestParser(Head())
    for start in range(0, len(raw), 1024):
        parser.feed_data(raw[start : start + 1024])
    return lines


def _tags(value: str) -> None:
    required_match(value, "it").check("x", "it")


def _quantity(value: str) -> None:
    for read in (DURATION.parse, RATE.parse, MEMORY.parse):
        with suppress(ValueError):
            read(value)


def _authorization(value: str) -> None:
    token = auth._token(Headers({"authorization": value.encode("utf-8", "replace").decode("latin-1")}))
    keys.FORM.fullmatch(token or "")


def _json_file(kind: Callable[[Document], object]) -> Callable[[str], object]:
    return lambda text: kind(Document("", parse_json(text))) if not structure_fault(text.encode()) else None


def _yaml_file(text: str) -> object:
    return pipeline_in(parse(text, "", MOST_YAML_VALUES))


def PARSERS() -> list[Parser]:  # noqa: N802 - a table, made when it is asked for
    """All of them."""
    json_places, file_places = JSON_PLACES, (*JSON_PLACES, *dict.fromkeys(holes(WIDE)))
    several = [
        Parser(
            "structure of a JSON body",
            structure_fault,
            json_places,
            JSON_UNITS,
            BODY_LIMIT_BYTES,
            encode=str.encode,
        ),
        Parser("JSON file", parse_json, json_places, JSON_UNITS),
        Parser("pipeline in JSON", _json_file(pipeline_in), file_places, JSON_UNITS),
        Parser(
            "profile in JSON",
            _json_file(profile_in),
            (*JSON_PLACES, *dict.fromkeys(holes(PROFILE))),
            JSON_UNITS,
        ),
        Parser("pipeline in YAML", _yaml_file, (*YAML_PLACES, *file_places), (*YAML_UNITS, *JSON_UNITS)),
        Parser("head of a request", _head, HEAD_PLACES, HEAD_UNITS, 39_000, encode=str.encode),
    ]
    for name, read in (
        ("If-Match", _tags),
        ("Host", lambda value: gate._host(Headers({"host": value}))),
        ("Authorization", _authorization),
        ("quantity", _quantity),
        ("plain YAML scalar", resolve_plain),
    ):
        several.append(Parser(name, read, HEADER_PLACES, HEADER_UNITS, HEADERS_LIMIT_BYTES, 0.02))
    several += [
        Parser(
            f"{min(route.methods)} {route.path}"[:34],
            _routed(route),
            (*JSON_PLACES, *_body_places(route)),
            JSON_UNITS,
            JSON_LIMIT_BYTES,
            encode=str.encode,
        )
        for route in _routes(create_app(FakeWorld().services()))
    ]
    return [Parser(each.name, quiet(each.parse), *_rest(each)) for each in several]


HEAD_PLACES = (
    *("@", "GET @", "GET / HTTP/1.1\r\n@", "GET / HTTP/1.1\r\nX: @", "GET / HTTP/1.1\r\n@\r\n\r\n"),
    *(
        "GET /?@ HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nX: @\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: @\r\n\r\n",
    ),
)
HEAD_UNITS = (
    *(
        "X: y\r\n",
        "X#: y\r\n",
        " ",
        "\t",
        "a",
        "\r\n",
        "\r",
        "\n",
        ":",
        "X:",
        " a",
        "\t\r\n",
        "a ",
        "%41",
        "/",
        ",",
    ),
    *("Content-Length: 1\r\n", "Transfer-Encoding: chunked\r\n", "\x00", "é", "1, ", "chunked,"),
)


def _rest(parser: Parser) -> tuple[Any, ...]:
    return parser.places, parser.units, parser.size_bytes, parser.bound_s, parser.encode


def _routes(app: FastAPI) -> list[JsonRoute]:
    return [
        route
        for route in app.routes
        if isinstance(route, JsonRoute) and route.body_field is not None and route.methods
    ]


def _routed(route: JsonRoute) -> Callable[[bytes], object]:
    assert route.body_field is not None
    kind: TypeAdapter[Any] = TypeAdapter(route.body_field.field_info.annotation)

    def parse(body: bytes) -> object:
        try:
            return structure_fault(body) or kind.validate_python(json.loads(body))
        except ValidationError as error:
            return error.errors()

    return parse


def _body_places(route: JsonRoute) -> Iterable[str]:
    """A hole in each field of the route's body."""
    assert route.body_field is not None
    fields = getattr(route.body_field.field_info.annotation, "model_fields", {})
    for name, field in fields.items():
        for around in ("@", "[@]", '"@"', "{@}"):
            yield f'{{"{field.alias or name}":{around}}}'
    yield "{@}"
