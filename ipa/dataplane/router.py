"""A pipeline's router as a process: `python -m ipa.dataplane.router --pipeline P --port N --stage S=URL ...`.

As a container it takes the same from its environment: IPA_PIPELINE, IPA_STAGES ("detect=http://..."
and more after spaces), IPA_DROP_AFTER_S, IPA_HOST, IPA_DRAIN_S, and IPA_PORT or the port that Seldon's
operator gives it.

Passes a V2 request through the stages' queues in order, as Seldon's orchestrator does: the outputs of one
stage are the inputs of the next. Bodies are passed on as they are where nothing changes in them.
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence

import orjson

from ipa.dataplane.batching import Outcome
from ipa.dataplane.client import Client, ConnectionLostError
from ipa.dataplane.environment import Words, add, add_address, words
from ipa.dataplane.http import BUDGET_HEADER, Application, Call, HttpError, Response, serve
from ipa.dataplane.metrics import RouterMetrics
from ipa.dataplane.tensors import FAN_OUT

PUID_HEADER = "seldon-puid"

# (URL, body, headers) -> (status, body); ConnectionLostError without an answer.
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[tuple[int, bytes]]]

# Without drop_after and without a budget from the client, a request is given up after this.
DEFAULT_BUDGET_S = 30.0
DROPPED = (503, 504)


class RouterServer:
    """The HTTP face of a pipeline. `stages` are (name, base URL of its queue) in order."""

    def __init__(
        self,
        pipeline: str,
        stages: Sequence[tuple[str, str]],
        *,
        drop_after_s: float | None = None,
        post: Post | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._urls = [f"{url}/v2/models/{name}/infer" for name, url in stages]
        self._budget_s = DEFAULT_BUDGET_S if drop_after_s is None else drop_after_s
        self._metrics = RouterMetrics(pipeline)
        self._client: Client | None = None
        self._post = post or self._post_over_http

    def application(self) -> Application:
        """The ASGI application."""
        path = f"/v2/models/{self._pipeline}"
        return Application(
            {
                ("POST", f"{path}/infer"): self._infer,
                ("GET", f"{path}/ready"): self._ready,
                ("GET", "/v2/health/ready"): self._ready,
                ("GET", "/v2/health/live"): self._ready,
                ("GET", "/metrics"): self._metrics.handle,
            },
            start=self._start,
            stop=self._stop,
        )

    async def _start(self) -> None:
        self._client = Client()

    async def _stop(self) -> None:
        if self._client:
            await self._client.close()

    async def _post_over_http(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if self._client is None:
            raise RuntimeError("the application was not started")
        return await self._client.post(url, body, headers)

    async def _ready(self, _call: Call) -> Response:
        return Response(b"{}")

    async def _infer(self, call: Call) -> Response:
        began_s = time.monotonic()
        self._metrics.arrivals.inc()
        puid = call.headers.get(PUID_HEADER) or uuid.uuid4().hex
        try:
            asked_s = call.budget_s()
            budget_s = self._budget_s if asked_s is None else min(asked_s, self._budget_s)
            body = await self._through_stages(call.body, puid, began_s + budget_s)
            response = Response(body, headers={PUID_HEADER: puid})
        except HttpError as error:
            failed = error.response()
            response = Response(failed.body, failed.status, failed.content_type, {PUID_HEADER: puid})
        if response.status == 200:
            self._metrics.request_s.observe(time.monotonic() - began_s)
        self._metrics.requests[_outcome(response.status)].inc()
        return response

    async def _through_stages(self, body: bytes, puid: str, deadline_s: float) -> bytes:
        for index, url in enumerate(self._urls):
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise HttpError(504, "dropped", "its time budget is used up")
            headers = {PUID_HEADER: puid, BUDGET_HEADER: f"{remaining_s * 1000:.3f}"}
            try:
                status, answer = await self._post(url, body, headers)
            except ConnectionLostError as error:
                raise HttpError(502, "failed", f"a stage's queue did not answer: {error}") from error
            if status != 200:
                raise _stage_error(status, answer, is_first=index == 0)
            if index == len(self._urls) - 1:
                return answer
            forwarded = outputs_as_inputs(answer)
            if forwarded is None:
                return orjson.dumps({"model_name": self._pipeline, "outputs": []})
            body = forwarded
        raise HttpError(502, "failed", f"pipeline {self._pipeline} has no stages")


def outputs_as_inputs(answer: bytes) -> bytes | None:
    """The request for the next stage, made of a stage's answer; None where it has no rows."""
    response = orjson.loads(answer)
    inputs = [tensor for tensor in response["outputs"] if tensor["name"] != FAN_OUT]
    if not inputs or not inputs[0]["shape"][0]:
        return None
    request = {"id": response["id"], "inputs": inputs} if "id" in response else {"inputs": inputs}
    return orjson.dumps(request)


def _stage_error(status: int, answer: bytes, *, is_first: bool) -> HttpError:
    problem = orjson.loads(answer) if answer[:1] == b"{" else {}
    detail = str(problem.get("detail", f"a stage answered {status}"))
    if status in DROPPED:
        return HttpError(status, "dropped", detail)
    # Only the first stage sees what the client wrote; elsewhere it is our own fault.
    if is_first and 400 <= status < 500:
        return HttpError(status, str(problem.get("code", "input")), detail)
    return HttpError(502, "failed", detail)


def _outcome(status: int) -> Outcome:
    if status == 200:
        return Outcome.ANSWERED
    return Outcome.DROPPED if status in DROPPED else Outcome.FAILED


def _stage(text: str) -> tuple[str, str]:
    name, separator, url = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=URL")
    return name, url.rstrip("/")


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(
        prog="python -m ipa.dataplane.router", description=__doc__.split("\n")[0]
    )
    add(parser, "--pipeline", "IPA_PIPELINE")
    add_address(parser)
    add(parser, "--stage", "IPA_STAGES", action=Words, metavar="NAME=URL")
    add(
        parser,
        "--drop-after-s",
        "IPA_DROP_AFTER_S",
        type=float,
        optional=True,
        help="give a request up after this many seconds",
    )
    given = parser.parse_args()
    try:
        stages = [_stage(text) for text in words(given.stage)]
    except argparse.ArgumentTypeError as error:
        parser.error(f"--stage: {error}")
    server = RouterServer(given.pipeline, stages, drop_after_s=given.drop_after_s)
    serve(server.application(), given.host, given.port, given.drain_s)


if __name__ == "__main__":
    main()
