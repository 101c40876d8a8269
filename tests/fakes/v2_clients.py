"""Clients of the V2 protocol, each with its own package, asked the same of several servers.

    python v2_clients.py tritonclient.http curl servers.json

writes for each server if each feature works: "yes", or what happened instead. Packages register messages of
the same names, so each needs a process of its own, which needs nothing else.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROWS = [[1.0, 2.5, -3.0], [0.0, 4.0, 8.0]]
WORDS = ["größe", "b"]
# No text: the bytes of a picture are like that.
RAW = [b"\x89PNG\xff\x00", b"\xff\xfe"]
FLAVOUR = {"flavour": "mild"}
# Two of them are more than curl sends without asking first, `Expect: 100-continue`.
LONG = 600_000
WORKS = "yes"
Feature = Callable[[], Any]
Server = Mapping[str, Any]


def check(is_so: Any, answer: Any = "") -> None:
    """Raise AssertionError, with what was found instead, unless it is so."""
    if not is_so:
        raise AssertionError(str(answer)[:200])


def plus(server: Server) -> list[list[float]]:
    """The answer of a server to ROWS."""
    return [[value + server["stages"] for value in row] for row in ROWS]


def features_of_triton(server: Server) -> dict[str, Feature]:
    import numpy as np
    import tritonclient.http as triton
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(server["http"])
    model = server["model"]

    def given(
        words: Any = None, x: Any = None, name: str = "x", datatype: str = "FP32", **how: Any
    ) -> list[Any]:
        array = np.array(ROWS, dtype=np.float32) if x is None else x
        elements = np.array([word.encode() for word in WORDS] if words is None else words, dtype=np.object_)
        inputs = [
            triton.InferInput(name, list(array.shape), datatype),
            triton.InferInput("word", [len(elements)], "BYTES"),
        ]
        inputs[0].set_data_from_numpy(array, **how)
        inputs[1].set_data_from_numpy(elements, **how)
        return inputs

    def has(answer: Any) -> None:
        check(np.array_equal(answer.as_numpy("x"), plus(server)), answer.get_response())
        # Those of JSON are text.
        words = [it if isinstance(it, str) else it.decode() for it in answer.as_numpy("word").ravel()]
        check(words == WORDS, words)

    def outputs(**names: bool) -> list[Any]:
        return [triton.InferRequestedOutput(name, binary_data=binary) for name, binary in names.items()]

    def refused(status: str, *says: str, ask: Callable[[], Any]) -> None:
        try:
            answer = ask()
        except InferenceServerException as error:
            check(status in str(error.status()), f"{error.status()}: {error.message()}")
            for word in says:
                check(word in error.message(), error.message())
        else:
            raise AssertionError(f"it was answered: {answer}")

    def flavour_of(answer: Any) -> dict[str, Any]:
        return json.loads(answer.as_numpy("told").ravel()[0])

    def response(answer: Any) -> Mapping[str, Any]:
        return answer.get_response()

    def metadata(version: str = "") -> None:
        answer = client.get_model_metadata(model, version)
        inputs = [(it["name"], it["datatype"], [*map(int, it["shape"])]) for it in answer["inputs"]]
        check(answer["name"] == model, answer)
        check(inputs == [("x", "FP32", [-1, 3]), ("word", "BYTES", [-1])], inputs)
        check([it["name"] for it in answer["outputs"]] == ["x", "word", "told"], answer["outputs"])

    def server_metadata() -> None:
        answer = client.get_server_metadata()
        check(answer["name"] and answer["version"], answer)
        check("binary_tensor_data" in answer["extensions"], answer)

    def raw_bytes() -> None:
        answer = client.infer(model, given(words=RAW))
        check([*answer.as_numpy("word").ravel()] == RAW, answer.as_numpy("word"))

    def named() -> None:
        answer = client.infer(model, given(), outputs=outputs(x=True))
        check([it["name"] for it in response(answer)["outputs"]] == ["x"], response(answer))
        check(np.array_equal(answer.as_numpy("x"), plus(server)), response(answer))

    def identified() -> None:
        answer = client.infer(model, given(), request_id="r-7")
        check(response(answer)["id"] == "r-7", response(answer))

    def name_of_model() -> None:
        answer = client.infer(model, given())
        name = response(answer)["model_name"]
        check(name == model, name)

    return {
        "server live": lambda: check(client.is_server_live()),
        "server ready": lambda: check(client.is_server_ready()),
        "server metadata": server_metadata,
        "model ready": lambda: check(client.is_model_ready(model)),
        "model metadata": metadata,
        "version named": lambda: (
            metadata("1"),
            has(client.infer(model, given(), model_version="1")),
        ),
        "version unknown: 404": lambda: refused(
            "404", ask=lambda: client.infer(model, given(), model_version="7")
        ),
        "model unknown: 404": lambda: refused("404", ask=lambda: client.infer("other", given())),
        "tensors as bytes, both ways": lambda: has(client.infer(model, given())),
        "bytes that are no text": raw_bytes,
        "outputs selected": named,
        "output unknown: 400": lambda: refused(
            "400", "nothing", ask=lambda: client.infer(model, given(), outputs=outputs(nothing=True))
        ),
        "request id": identified,
        "name of the model": name_of_model,
        "parameters passed on": lambda: check(
            flavour_of(client.infer(model, given(), parameters=FLAVOUR)) == FLAVOUR,
            flavour_of(client.infer(model, given(), parameters=FLAVOUR)),
        ),
        "input misnamed: 400": lambda: refused(
            "400", "'x'", ask=lambda: client.infer(model, given(name="other"))
        ),
        "datatype wrong: 400": lambda: refused(
            "400",
            "FP32",
            ask=lambda: client.infer(model, given(x=np.array(ROWS, dtype=np.int64), datatype="INT64")),
        ),
        "shape wrong: 400": lambda: refused(
            "400", "shape", ask=lambda: client.infer(model, given(x=np.zeros((2, 4), dtype=np.float32)))
        ),
        "JSON, both ways": lambda: has(
            client.infer(model, given(binary_data=False), outputs=outputs(x=False, word=False))
        ),
        "JSON in, bytes out": lambda: has(client.infer(model, given(binary_data=False))),
    }


def features_of_kserve(server: Server) -> dict[str, Feature]:
    import httpx
    import numpy as np
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
    from kserve.protocol.infer_type import RequestedOutput

    model, url = server["model"], f"http://{server['http']}"

    def request(
        *, name: str = "x", datatype: str = "FP32", binary: bool = False, x: Any = None, **how: Any
    ) -> Any:
        array = np.array(ROWS, dtype=np.float32) if x is None else x
        inputs = [InferInput(name, [*array.shape], datatype), InferInput("word", [len(WORDS)], "BYTES")]
        inputs[0].set_data_from_numpy(array, binary_data=binary)
        words = np.array([word.encode() for word in WORDS], dtype=np.object_)
        inputs[1].set_data_from_numpy(words, binary_data=binary)
        return InferRequest(model_name=model, infer_inputs=inputs, **how)

    def ask(name: str, *arguments: Any, **named: Any) -> Any:
        async def call() -> Any:
            client = InferenceRESTClient(RESTConfig(protocol="v2"))
            return await getattr(client, name)(url, *arguments, **named)

        return asyncio.run(call())

    def infer(made: Any) -> Any:
        return ask("infer", made, model_name=model)

    def output(answer: Any, name: str) -> Any:
        return next(it for it in answer.outputs if it.name == name)

    def has(answer: Any) -> Any:
        check(np.array_equal(output(answer, "x").as_numpy(), plus(server)), answer)
        return answer

    def refused(status: str, made: Any, *says: str) -> None:
        try:
            answer = infer(made)
        except httpx.HTTPStatusError as error:
            check(status == str(error.response.status_code), error)
            text = error.response.text
        else:
            raise AssertionError(f"it was answered: {answer}")
        for word in says:
            check(word in text, text)

    int_rows = np.array(ROWS, dtype=np.int64)
    return {
        "server live": lambda: check(ask("is_server_live")),
        "server ready": lambda: check(ask("is_server_ready")),
        "model ready": lambda: check(ask("is_model_ready", model)),
        "JSON, both ways": lambda: has(infer(request())),
        "tensors as bytes, both ways": lambda: has(
            infer(request(binary=True, parameters={"binary_data_output": True}))
        ),
        "outputs selected": lambda: check(
            [it.name for it in infer(request(request_outputs=[RequestedOutput("x")])).outputs] == ["x"],
        ),
        "output unknown: 400": lambda: refused(
            "400", request(request_outputs=[RequestedOutput("nothing")]), "nothing"
        ),
        "request id": lambda: check(infer(request(request_id="r-7")).id == "r-7"),
        "name of the model": lambda: check(infer(request()).model_name == model),
        "parameters passed on": lambda: check(
            "mild" in str(output(infer(request(parameters=FLAVOUR)), "told").data)
        ),
        "input misnamed: 400": lambda: refused("400", request(name="other"), "'x'"),
        "datatype wrong: 400": lambda: refused("400", request(x=int_rows, datatype="INT64"), "FP32"),
        "shape wrong: 400": lambda: refused("400", request(x=np.zeros((2, 4), dtype=np.float32)), "shape"),
    }


def features_of_mlserver(server: Server) -> dict[str, Feature]:
    from mlserver.cli.main import root

    model = server["model"]
    inference = {
        "inputs": [
            {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [it for row in ROWS for it in row]},
            {"name": "word", "shape": [2], "datatype": "BYTES", "data": WORDS},
        ]
    }

    def run(request: Any, *flags: str) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            given, answered = Path(folder, "in"), Path(folder, "out")
            given.write_text(json.dumps(request) + "\n")
            words = [
                "infer",
                "-u",
                server["http"],
                "-m",
                model,
                "-i",
                str(given),
                "-o",
                str(answered),
                "-w",
                "1",
            ]
            root.main([*words, "-r", "1", *flags], standalone_mode=False)
            return json.loads(answered.read_text())

    def has(answer: Any) -> None:
        [x] = [it for it in answer.get("outputs", ()) if it["name"] == "x"] or [{"data": answer}]
        check(x["data"] == [it for row in plus(server) for it in row], answer)

    def named(*flags: str) -> None:
        answer = run({**inference, "outputs": [{"name": "x"}]}, *flags)
        check([it["name"] for it in answer.get("outputs", ())] == ["x"], answer)

    def refused(request: Any, *says: str) -> None:
        answer = json.dumps(run(request))
        for word in says:
            check(word in answer, answer)

    wrong = [{**inference["inputs"][0], "name": "other"}, inference["inputs"][1]]
    return {
        "JSON in, bytes out": lambda: has(run(inference)),
        "tensors as bytes, both ways": lambda: has(run(inference, "-b")),
        "outputs selected": lambda: (named(), named("-b")),
        "output unknown: 400": lambda: refused({**inference, "outputs": [{"name": "nothing"}]}, "nothing"),
        "request id": lambda: check(run({**inference, "id": "r-7"})["id"] == "r-7"),
        "name of the model": lambda: check(run(inference)["model_name"] == model),
        "micro-batches (-s 2)": lambda: has(run(inference, "-s", "2")),
        "input misnamed: 400": lambda: refused({"inputs": wrong}, "'x'"),
    }


def features_of_curl(server: Server) -> dict[str, Feature]:
    url, model = f"http://{server['http']}", server["model"]
    request = {
        "id": "r-7",
        "inputs": [
            {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": ROWS},
            {"name": "word", "shape": [2], "datatype": "BYTES", "data": WORDS},
        ],
    }

    def curl(path: str, body: Any = None, *flags: str, raw: bytes | None = None) -> tuple[int, str, Any]:
        """Status, content type, and the body as JSON if it is any."""
        form = "%{stderr}%{http_code} %{content_type}"
        words = ["curl", "-sS", "-w", form, f"{url}{path}", *flags]
        sent = raw if raw is not None else None if body is None else json.dumps(body).encode()
        if sent is not None:
            words += ["-H", "content-type: application/json", "--data-binary", "@-"]
        run = subprocess.run(words, input=sent, capture_output=True, check=True)
        status, _, kind = run.stderr.decode().partition(" ")
        return int(status), kind, json.loads(run.stdout) if run.stdout else None

    def infer(body: Any, *flags: str) -> Any:
        status, kind, reply = curl(f"/v2/models/{model}/infer", body, *flags)
        check(status == 200, reply)
        check(kind.startswith("application/json"), kind)
        return reply

    def has(answer: Any) -> None:
        [x] = [it for it in answer["outputs"] if it["name"] == "x"]
        values = plus(server)
        check(x["data"] in (values, [it for row in values for it in row]), x)

    def refused(status: int, body: Any, *says: str, path: str = "infer", problem: bool = True) -> None:
        code, kind, answer = curl(f"/v2/models/{model}/{path}", body)
        check(code == status, f"{code}: {answer}")
        check(kind.startswith("application/problem+json") or not problem, kind)
        for word in says:
            check(word in answer["error"], answer)

    def large() -> None:
        words = ["a" * LONG, "b" * LONG]
        answer = infer({"inputs": [request["inputs"][0], {**request["inputs"][1], "data": words}]})
        check([it["data"] == words for it in answer["outputs"] if it["name"] == "word"] == [True])

    def get(path: str, **members: Any) -> None:
        status, _, reply = curl(path)
        check(status == 200 and reply and members.items() <= reply.items(), (status, reply))

    def body_of(**x: Any) -> Any:
        return {"inputs": [{**request["inputs"][0], **x}, request["inputs"][1]]}

    return {
        "server live": lambda: get("/v2/health/live", live=True),
        "server ready": lambda: get("/v2/health/ready", ready=True),
        "server metadata": lambda: get("/v2"),
        "model ready": lambda: get(f"/v2/models/{model}/ready", name=model, ready=True),
        "model metadata": lambda: get(f"/v2/models/{model}", name=model),
        "version named": lambda: get(f"/v2/models/{model}/versions/1", name=model),
        "version unknown: 404": lambda: refused(404, None, path="versions/7", problem=False),
        "JSON, both ways": lambda: has(infer(request)),
        "outputs selected": lambda: check(
            [it["name"] for it in infer({**request, "outputs": [{"name": "x"}]})["outputs"]] == ["x"]
        ),
        "output unknown: 400": lambda: refused(
            400, {**request, "outputs": [{"name": "nothing"}]}, "nothing", problem=False
        ),
        "large body (Expect: 100-continue)": large,
        "request id": lambda: check(infer(request)["id"] == "r-7"),
        "name of the model": lambda: check(infer(request)["model_name"] == model),
        "parameters passed on": lambda: check(
            "mild" in json.dumps(infer({**request, "parameters": FLAVOUR})["outputs"])
        ),
        "input misnamed: 400": lambda: refused(400, body_of(name="other"), "'x'"),
        "datatype wrong: 400": lambda: refused(
            400, body_of(datatype="INT64", data=[[1, 2, 3], [4, 5, 6]]), "FP32"
        ),
        "shape wrong: 400": lambda: refused(400, body_of(shape=[3, 2]), "shape"),
        "body that is no JSON: 400": lambda: (
            check(curl(f"/v2/models/{model}/infer", raw=b"{")[0] == 400),
            check("error" in curl(f"/v2/models/{model}/infer", raw=b"{")[2]),
        ),
        "error and problem details": lambda: refused(400, {"inputs": []}, "inputs"),
    }


CLIENTS: Mapping[str, Callable[[Server], dict[str, Feature]]] = {
    "tritonclient.http": features_of_triton,
    "KServe REST": features_of_kserve,
    "mlserver infer": features_of_mlserver,
    "curl": features_of_curl,
}


def tried(feature: Feature) -> str:
    try:
        feature()
    except Exception as error:  # whatever a client raises is the result
        return f"{type(error).__name__}: {error}"[:300] or "no"
    return WORKS


def main() -> None:
    """Write what works of the clients named, by client, server and feature, beside the servers' file."""
    *names, file = sys.argv[1:]
    servers = json.loads(Path(file).read_text())
    results: dict[str, dict[str, dict[str, str]]] = {}
    for name in names:
        results[name] = {
            server: {feature: tried(ask) for feature, ask in CLIENTS[name](given).items()}
            for server, given in servers.items()
        }
    # Clients print too.
    Path(file).with_suffix(f".{names[0].replace(' ', '-')}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
