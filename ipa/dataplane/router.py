"""A pipeline's router as a process: `python -m ipa.dataplane.router`, configured by its environment.

The settings are IPA_PIPELINE, IPA_STAGES ("detect=http://..." and more after spaces), IPA_DROP_AFTER_S (a
request is dropped after this many seconds), IPA_SLA_S (seconds within which to answer it, by lighter variants
if need be; each stands for the other), IPA_SHARES (JSON: percents by part), IPA_MAX_BODY_MB,
IPA_MAX_HELD_MB, IPA_HOST, IPA_DRAIN_S, IPA_METRICS_PORT, and IPA_PORT or the port that the operator gives it.

    POST /v2/models/{pipeline}/infer   a V2 request, JSON or with binary tensors
    GET  /v2/models/{pipeline}         V2's metadata: the inputs of the first stage, the outputs of the last
    GET  /v2/models/{pipeline}/ready   200 once every stage has a replica, 503 before
    GET  /v2, /v2/health/ready         V2's metadata of the server; 200 while the router runs
    GET  /metrics                      Prometheus

The router sends a V2 request through the stages' queues in order, as an orchestrator does: the outputs of
one stage are the inputs of the next. A body that needs no change is forwarded as it is. Each answer says in
`Server-Timing` where its time went.

A queue reports in each answer how long a request that arrives now would take. The router passes this to the
queues of earlier stages, which refuse requests that cannot be in time: `ipa-budget-ms` leaves the later
stages their least time, and `ipa-aim-ms` is what is left of the SLA.

The router retries a queue that it cannot reach until the request's deadline. If a queue breaks the
connection, the router sends the request once more: the queue may have restarted, and inference is idempotent.

Several configurations of the pipeline may run side by side, as parts with shares of the requests. A request
goes through one part, which the header ipa-part tells the queues.

    GET  /admin/config   the shares, the times, and each part's requests on their way
    PUT  /admin/config   {"shares": {"1": 95, "2": 5}} in whole percents, {"sla_s": 0.5, "drop_after_s": 1},
                         or both, for requests from now on

The admin address answers callers on this machine that have the token of IPA_ADMIN_TOKEN. It is off without a
token.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf, sqrt
from typing import Any

import orjson

from ipa.dataplane import http, tensors
from ipa.dataplane.client import ConnectionLostError, OversizedAnswerError
from ipa.dataplane.environment import edge, required, serve, setting
from ipa.dataplane.metrics import RouterMetrics
from ipa.dataplane.v2 import UNDECLARED, DeclaredModel, V2Server, json_response, parse_model, v2_response
from ipa.metering.traces import onward
from ipa.model.errors import InputError
from ipa.model.serving import FAN_OUT
from ipa.serving.batching import LossCause, Outcome
from ipa.serving.body_budget import aside
from ipa.serving.expectation import (
    AHEAD_HEADER,
    AIM_HEADER,
    ARRIVALS_HEADER,
    EXPECTED_HEADER,
    NAME_HEADER,
    PUID_HEADER,
    TIMING_HEADER,
    TOOK_HEADER,
    UNKNOWN,
    VARIANTS_HEADER,
    LoopLag,
    Passage,
    StageTimes,
    parse_ms,
    parse_times,
    parse_timing,
    server_timing,
    total,
)

# As many as a UUID has.
PUID_BYTES = 16
PUID = re.compile(r"[\x21-\x7e]{1,256}")

# (URL, body, headers) -> (status, body, headers); ConnectionLostError if no answer comes.
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[tuple[int, bytes, Mapping[str, str]]]]

# (URL, seconds) -> (status, body); ConnectionLostError if no answer comes.
Get = Callable[[str, float], Awaitable[tuple[int, bytes]]]

# A body with one of them may have what only the last stage is to know.
LAST_MARKS = (b'"outputs"', f'"{tensors.BINARY_OUTPUT}"'.encode())
OUTCOMES = {200: Outcome.ANSWERED, 503: Outcome.DROPPED, 504: Outcome.DROPPED}
# What too many requests end by.
CROWDED = frozenset({LossCause.OVERLOAD, LossCause.QUEUE_FULL, LossCause.NO_TIME_LEFT, LossCause.BATCH_LATE})
# A request enters if it is expected to take at most this part of its time budget.
ENTRY_RATIO = 0.75
# A queue answers by the deadline: an answer that is later than this never comes.
ANSWER_GRACE_S = 0.1
# A queue restarts within a second. Waits double, so that a long outage causes no flood of connections.
FIRST_WAIT_S = 0.02
LONGEST_WAIT_S = 0.5
# For a queue to say what its model declares, or that it is ready.
ASK_S = 2.0
# A request that broke two connections in a row may be what crashes the queue.
MAX_BROKEN = 2
# How far the next request's place is from the last one's, as a part of all: no other number spreads places
# more evenly, and requests that repeat in a pattern do not meet the same part each time.
STRIDE = (sqrt(5) - 1) / 2
WHOLE_PERCENT = 100
ALONE: Mapping[str, int] = {http.FIRST_PART: WHOLE_PERCENT}


@dataclass(slots=True)
class RoutedStage:
    """A stage: its name, the URL of its queue, and the times that the queue last reported, and when."""

    name: str
    url: str
    reported: StageTimes = UNKNOWN
    reported_at_s: float = 0.0
    # The requests that were sent to it and have no answer yet.
    in_flight: int = 0

    def expected(self, now_s: float) -> StageTimes:
        """The expected times of a request that arrives at the stage now."""
        return self.reported.after(now_s - self.reported_at_s)


class RoutedPart:
    """One of the configurations side by side: its share, its stages, its requests and their metrics."""

    def __init__(self, name: str, stages: Sequence[tuple[str, str]], metrics: RouterMetrics) -> None:
        self.share_percent = 0
        self.stages = [RoutedStage(*stage) for stage in stages]
        self.passage = Passage(len(stages))
        self.metrics = metrics.of_part(name)
        self.headers = {} if name == http.FIRST_PART else {http.PART_HEADER: name}

    def refuse_late(self, deadline_s: float, now_s: float) -> None:
        """Raise StageLoss 503 if a new request would probably be late behind those on the way.

        The queue would refuse it too; under overload sending it there costs more than everything else. A
        request that is admitted with no time to spare is lost at a later stage, after it has used capacity.
        What the queues last reported is as old as their answers, what is on its way to each is known now.
        """
        expected = [stage.expected(now_s) for stage in self.stages]
        whole, left_s = total(expected), deadline_s - now_s
        took_s = whole.wait_s + whole.usual_s if whole.wait_s > 0 else 0.0
        before = accumulate(stage.in_flight for stage in self.stages)
        took_s = max([took_s, *(count * it.each_s for count, it in zip(before, expected, strict=True))])
        missing_s = took_s - ENTRY_RATIO * left_s
        if took_s > 0 and missing_s > 0:
            longest = max(range(len(expected)), key=lambda index: expected[index].wait_s)
            detail = f"it would take {took_s:.3g} s, and has {left_s:.3g} s: too many requests wait"
            name = self.stages[longest].name
            raise StageLoss(name, 503, "dropped", detail, cause=LossCause.OVERLOAD, retry_after_s=missing_s)


class RoutedParts:
    """The parts of a pipeline by their names, each with its share of the requests."""

    def __init__(
        self, stages: Sequence[tuple[str, str]], metrics: RouterMetrics, shares: Mapping[str, int]
    ) -> None:
        self._stages, self._metrics = stages, metrics
        self._parts: dict[str, RoutedPart] = {}
        self._place = 0.0
        self.share(shares)

    def share(self, shares: Mapping[str, int]) -> None:
        """Set the parts' percents of the requests from now on, and remove parts without any."""
        for name in shares.keys() - self._parts.keys():
            self._parts[name] = RoutedPart(name, self._stages, self._metrics)
        for name, part in list(self._parts.items()):
            part.share_percent = shares.get(name, 0)
            if name not in shares and not part.passage.in_flight:
                del self._parts[name]

    def to_json(self) -> dict[str, Any]:
        """By part, the share in percent and the number of requests on their way."""
        parts = self._parts.items()
        return {
            "shares": {name: part.share_percent for name, part in parts if part.share_percent},
            "in_flight": {name: part.passage.in_flight for name, part in parts},
        }

    def choose(self) -> RoutedPart:
        """The part for the next request: over any run of requests each part gets nearly its share."""
        self._place = (self._place + STRIDE) % 1.0
        percent = self._place * WHOLE_PERCENT
        *others, last = (part for part in self._parts.values() if part.share_percent)
        for part in others:
            percent -= part.share_percent
            if percent < 0:
                return part
        return last


def parse_order(body: bytes) -> dict[str, Any]:
    """The body of a PUT: shares by part, the SLA with the time to drop, or both.

    HttpError 422 lists the faults.
    """
    try:
        order = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise http.HttpError(400, "input", f"the body is not JSON: {error}") from error
    times = {"sla_s", "drop_after_s"}
    if not isinstance(order, dict) or order.keys() not in ({"shares"}, times, {"shares", *times}):
        raise http.HttpError(422, "input", "the body needs shares, or sla_s and drop_after_s, or all three")
    if "shares" in order:
        parse_shares(order["shares"])
    given = [order[key] for key in times & order.keys()]
    if not all(type(it) in (int, float) and 0 < it < inf for it in given):
        raise http.HttpError(422, "input", "sla_s and drop_after_s must be seconds above 0 and finite")
    return order


def parse_shares(shares: Any) -> Mapping[str, int]:
    """The percents by part; HttpError 422: they are invalid, or not 100 in all."""
    if isinstance(shares, dict) and all(name in http.PARTS for name in shares):
        percents = shares.values()
        if all(type(it) is int and it > 0 for it in percents) and sum(percents) == WHOLE_PERCENT:
            return shares
    words = f"by part ({', '.join(http.PARTS)}), {WHOLE_PERCENT} in all"
    raise http.HttpError(422, "input", f"shares must be whole percents {words}")


@dataclass(slots=True)
class RoutedRequest:
    """A request on its way through the stages of its part.

    It is dropped at `deadline_s`; the SLA requires its answer by `aim_s`. `body` is the body for the next
    stage, `layout` the header that describes it; `last` are the members for the last stage alone. `times` are
    the seconds spent in each part of the stages, `variants` those that answered, by stage.
    """

    part: RoutedPart
    puid: str
    deadline_s: float
    aim_s: float
    body: bytes
    layout: Mapping[str, str]
    last: Mapping[str, Any]
    times: dict[str, float]
    variants: dict[str, str] = field(default_factory=dict)

    def headers(self, index: int, now_s: float) -> dict[str, str]:
        """The headers for the queue of that stage: the time left, and the times of later stages."""
        ahead = total(stage.expected(now_s) for stage in self.part.stages[index + 1 :])
        left_s = self.deadline_s - now_s - ahead.least_s
        headers = {**self.layout, PUID_HEADER: self.puid, **self.part.headers}
        headers[http.BUDGET_HEADER] = f"{max(0.0, left_s) * 1000:.3f}"
        headers[AHEAD_HEADER] = ahead.to_header()
        if self.aim_s < self.deadline_s:
            headers[AIM_HEADER] = f"{max(0.0, self.aim_s - now_s - ahead.least_s) * 1000:.3f}"
        return headers


class StageLoss(http.HttpError):
    """A request that ended at a stage without an answer. The detail of a 5xx names the stage."""

    def __init__(
        self, stage: str, status: int, code: str, detail: str, *, cause: str = "", retry_after_s: float = 0.0
    ) -> None:
        cause = cause or (LossCause.NO_TIME_LEFT if status == 504 else LossCause.QUEUE_UNREACHABLE)
        named = detail if status < 500 or f"stage {stage!r}" in detail else f"stage {stage!r}: {detail}"
        super().__init__(status, code, named, cause=cause, retry_after_s=retry_after_s)
        self.stage = stage


class RouterServer(V2Server):
    """The HTTP server of a pipeline. `stages` are (name, base URL of its queue) in order.

    `hosts` are the accepted host names, empty for any. `shares` are the percents of the requests by part;
    `admin_token` enables the admin address, by which they can be changed.
    """

    def __init__(
        self,
        pipeline: str,
        stages: Sequence[tuple[str, str]],
        *,
        drop_after_s: float | None = None,
        sla_s: float | None = None,
        post: Post | None = None,
        get: Get | None = None,
        hosts: frozenset[str] = frozenset(),
        limits: http.BodyLimits = http.DEFAULT_LIMITS,
        shares: Mapping[str, int] = ALONE,
        admin_token: str = "",
    ) -> None:
        self._metrics = RouterMetrics(pipeline, [name for name, _ in stages])
        super().__init__(pipeline, self._metrics, hosts=hosts, limits=limits, admin_token=admin_token)
        self._stages = [(name, f"{url}/v2/models/{name}") for name, url in stages]
        known_s = [each for each in (drop_after_s, sla_s, http.DEFAULT_BUDGET_S) if each is not None]
        self._budget_s, self._sla_s = known_s[0], known_s[0] if sla_s is None else sla_s
        self._post = post or self._client.post
        self._get = get or self._client.get
        self._lag = LoopLag()
        self.parts = RoutedParts(self._stages, self._metrics, shares)

    async def _stop(self) -> None:
        self._lag.stop()
        await super()._stop()

    async def _ready(self, _call: http.Call) -> http.Response:
        """Ready while the router runs: it waits for unreachable queues."""
        return http.Response(b'{"ready":true}')

    async def _read_config(self, call: http.Call) -> http.Response:
        call.require_supervisor(self._admin_token)
        times = {"sla_s": self._sla_s, "drop_after_s": self._budget_s}
        return json_response({**self.parts.to_json(), **times})

    async def _write_config(self, call: http.Call) -> http.Response:
        call.require_supervisor(self._admin_token)
        order = parse_order(call.body)
        if "shares" in order:
            self.parts.share(order["shares"])
        self._sla_s = order.get("sla_s", self._sla_s)
        self._budget_s = order.get("drop_after_s", self._budget_s)
        return await self._read_config(call)

    async def _model_ready(self, _call: http.Call) -> http.Response:
        """Ready if every stage is. HttpError 503 names the first that is not."""
        for name, url in self._stages:
            status, _ = await self._read(f"{url}/ready", name)
            if status != 200:
                raise http.HttpError(503, "not_ready", f"stage {name!r} has no replica yet")
        return json_response({"name": self._name, "ready": True})

    async def _metadata(self, _call: http.Call) -> http.Response:
        """The inputs of the first stage and the outputs of the last."""
        first, last = await self._declared(0), await self._declared(-1)
        return json_response(DeclaredModel("ipa", first.inputs, last.outputs).to_json(self._name))

    async def _declared(self, index: int) -> DeclaredModel:
        """The declaration of the stage's model. HttpError 503: its queue does not answer."""
        name, url = self._stages[index]
        status, body = await self._read(url, name)
        return parse_model(body) if status == 200 else UNDECLARED

    async def _read(self, url: str, stage: str) -> tuple[int, bytes]:
        try:
            return await self._get(url, ASK_S)
        except (ConnectionLostError, OversizedAnswerError) as error:
            detail = f"stage {stage!r}: its queue did not answer: {error}"
            raise http.HttpError(503, "not_ready", detail) from error

    async def _infer(self, call: http.Call) -> http.Response:
        loop = asyncio.get_running_loop()
        # A busy router reads a request late, but the client counts from sending it.
        came_s = loop.time()
        began_s = came_s - self._lag.measure()
        self._metrics.arrivals.inc()
        part = self.parts.choose()
        part.passage.come(came_s)
        puid = call.headers.get(PUID_HEADER) or os.urandom(PUID_BYTES).hex()
        headers = {PUID_HEADER: puid} if PUID.fullmatch(puid) else {}
        try:
            if not headers:
                raise http.HttpError(400, "input", f"{PUID_HEADER} must be 1 to 256 visible ASCII characters")
            given_s = call.budget_s()
            budget_s, source = self._budget_s, "drop_after"
            if given_s is not None and given_s < budget_s:
                budget_s, source = given_s, http.BUDGET_HEADER
            due_s = began_s + budget_s, began_s + min(self._sla_s, budget_s)
            request = RoutedRequest(part, puid, *due_s, call.body, {}, {}, {})
            try:
                await self._prepare(call, request)
            except InputError as error:
                raise http.HttpError(400, error.code, str(error), cause=LossCause.INVALID_REQUEST) from error
            part.refuse_late(request.deadline_s, loop.time())
            part.passage.in_flight += 1
            try:
                response = await self._pass_on(request)
            finally:
                part.passage.in_flight -= 1
            total_s = loop.time() - came_s
            times = request.times | {"router": total_s - sum(request.times.values()), "total": total_s}
            headers[TIMING_HEADER] = server_timing(times)
            if request.variants:
                headers[VARIANTS_HEADER] = ", ".join(map("=".join, request.variants.items()))
            part.metrics.request_s.observe(loop.time() - began_s)
        except StageLoss as error:
            if error.code == "dropped":
                error.detail += f"; it had {budget_s:.3g} s by {source}, the SLA is {self._sla_s:.3g} s"
            response = error.response()
            self._metrics.losses[error.stage, LossCause(error.cause)].inc()
            if error.cause in CROWDED:
                part.passage.lose(loop.time())
        except http.HttpError as error:
            response = error.response()
        except Exception:
            part.metrics.requests[Outcome.FAILED].inc()
            raise
        is_refused = 400 <= response.status < 500
        outcome = OUTCOMES.get(response.status, Outcome.REFUSED if is_refused else Outcome.FAILED)
        part.metrics.requests[outcome].inc()
        return response.with_headers(headers)

    async def _prepare(self, call: http.Call, request: RoutedRequest) -> None:
        """Set the first stage's body and the last one's members; InputError: invalid layout or outputs.

        A body without members for the last stage is passed on unchanged.
        """
        text, rest = tensors.json_part(call.body, call.headers.get(tensors.JSON_LENGTH_HEADER))
        if any(mark in text for mark in LAST_MARKS):
            body = await call.parse_object(text)
            parameters = body.get("parameters")
            parameters = parameters if isinstance(parameters, dict) else {}
            has_bytes = tensors.BINARY_OUTPUT in parameters
            tensors.wanted_outputs(body.get("outputs"), has_bytes)
            if len(self._stages) > 1:
                last = {"outputs": body.pop("outputs")} if "outputs" in body else {}
                if has_bytes:
                    last["parameters"] = {tensors.BINARY_OUTPUT: parameters.pop(tensors.BINARY_OUTPUT)}
                text = await aside(call.is_large, orjson.dumps, body)
                request.body, request.last = text + rest, last
        request.layout = {tensors.JSON_LENGTH_HEADER: str(len(text))} if rest else {}

    async def _pass_on(self, request: RoutedRequest) -> http.Response:
        """The response of the last stage."""
        loop = asyncio.get_running_loop()
        last = len(self._stages) - 1
        for index, (name, _) in enumerate(self._stages):
            sent_s = loop.time()
            if index == last:
                request.layout = {**request.layout, NAME_HEADER: self._name}
            stage = request.part.stages[index]
            stage.in_flight += 1
            try:
                status, answer, headers = await self._ask(request, index)
            finally:
                stage.in_flight -= 1
            if status != 200:
                raise _stage_error(name, status, answer, headers, is_first=index == 0)
            if variants := headers.get(VARIANTS_HEADER):
                request.variants[name] = variants
            times = parse_timing(headers.get(TIMING_HEADER))
            request.times |= {f"{name}-{part}": seconds for part, seconds in times.items()}
            # The time that the queue does not count is the hop to it and back.
            request.times[f"{name}-hop"] = loop.time() - sent_s - sum(times.values())
            if index == last:
                return v2_response(answer, headers.get(tensors.JSON_LENGTH_HEADER))
            try:
                members = request.last if index == last - 1 else {}
                is_large = len(answer) > tensors.INLINE_BYTES
                body = await aside(is_large, outputs_as_inputs, answer, members)
            except (orjson.JSONDecodeError, LookupError, TypeError) as error:
                detail = f"stage {name!r}: its queue's answer is not a V2 response: {error!r}"
                raise StageLoss(name, 502, "failed", detail) from error
            if body is None:
                return json_response(
                    {"model_name": self._name, **_id_of(orjson.loads(answer)), "outputs": []}
                )
            request.body, request.layout = body, {}
        raise http.HttpError(502, "failed", f"pipeline {self._name} has no stages")

    async def _ask(self, request: RoutedRequest, index: int) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of the queue's answer. StageLoss: 504 at the deadline, 502 if none."""
        loop = asyncio.get_running_loop()
        stage, passage = request.part.stages[index], request.part.passage
        lost: ConnectionLostError | None = None
        broken = 0
        wait_s = FIRST_WAIT_S
        ratio = passage.arrivals_ratio(index, loop.time())
        pressure = {ARRIVALS_HEADER: f"{ratio:.3f}"} if ratio > 1 else {}
        while (left_s := request.deadline_s - (sent_s := loop.time())) > 0:
            try:
                async with asyncio.timeout(left_s + ANSWER_GRACE_S):
                    headers = {**request.headers(index, sent_s), **pressure, **onward()}
                    answer = await self._post(f"{stage.url}/infer", request.body, headers)
            except TimeoutError:
                raise StageLoss(stage.name, 504, "dropped", "no answer within the time budget") from None
            except OversizedAnswerError as error:
                raise StageLoss(stage.name, 502, "failed", str(error)) from error
            except ConnectionLostError as error:
                lost = error
                broken += error.was_sent
                if broken >= MAX_BROKEN:
                    break
            else:
                if (took_s := parse_ms(answer[2].get(TOOK_HEADER))) is not None:
                    stage.reported_at_s = loop.time()
                    times = parse_times(answer[2].get(EXPECTED_HEADER))
                    stage.reported = times.with_hop(stage.reported_at_s - sent_s - took_s)
                return answer
            await asyncio.sleep(min(wait_s, max(0.0, request.deadline_s - loop.time())))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        if lost is None:
            raise StageLoss(stage.name, 504, "dropped", "the time budget is spent")
        raise StageLoss(stage.name, 502, "failed", f"its queue did not answer: {lost}") from lost


def outputs_as_inputs(answer: bytes, members: Mapping[str, Any]) -> bytes | None:
    """Return the request for the next stage, made from a stage's answer; None if the answer has no rows.

    `members` are added to the request.
    """
    response = orjson.loads(answer)
    inputs = [tensor for tensor in response["outputs"] if tensor["name"] != FAN_OUT]
    if not inputs or not inputs[0]["shape"][0]:
        return None
    return orjson.dumps({**_id_of(response), **members, "inputs": inputs})


def _id_of(response: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": response["id"]} if "id" in response else {}


def _stage_error(
    stage: str, status: int, answer: bytes, headers: Mapping[str, str], *, is_first: bool
) -> StageLoss:
    try:
        problem = tensors.parse_object(answer, "the answer")
    except InputError:
        problem = {}
    detail = str(problem.get("detail", f"its queue answered {status}"))
    cause = str(problem.get("cause"))
    if cause not in set(LossCause):
        cause = LossCause.QUEUE_UNREACHABLE
    if status in OUTCOMES:
        after = headers.get("retry-after", "")
        retry_after_s = float(after) if after.isdecimal() else 0.0
        return StageLoss(stage, status, "dropped", detail, cause=cause, retry_after_s=retry_after_s)
    # Only the first stage sees the client's inputs; elsewhere only unknown outputs are the client's fault.
    code = str(problem.get("code", "input"))
    if (is_first or code == tensors.UnknownOutputError.code) and 400 <= status < 500:
        return StageLoss(stage, status, code, detail, cause=LossCause.INVALID_REQUEST)
    return StageLoss(stage, 502, "failed", detail, cause=cause)


def main() -> None:
    """Serve until a stop signal, configured by the environment."""

    def stage(text: str) -> tuple[str, str]:
        name, url = text.split("=", 1)
        return name, url.rstrip("/")

    pipeline, _ = required("IPA_PIPELINE", "IPA_STAGES")
    server = RouterServer(
        pipeline,
        setting("IPA_STAGES", lambda text: [*map(stage, text.split())], []),
        drop_after_s=setting("IPA_DROP_AFTER_S", float, None),
        sla_s=setting("IPA_SLA_S", float, None),
        shares=setting("IPA_SHARES", lambda text: parse_shares(orjson.loads(text)), ALONE),
        **edge(),
    )
    serve(server.application(), server.registry, "ipa-router")


if __name__ == "__main__":
    main()
