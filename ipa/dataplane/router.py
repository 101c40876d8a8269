"""A pipeline's router as a process: `python -m ipa.dataplane.router`, configured by its environment.

The settings are IPA_PIPELINE, IPA_STAGES ("detect=http://..." and more after spaces), IPA_DROP_AFTER_S (a
request is dropped after so many seconds), IPA_SLA_S (it is to be answered within so many, by lighter variants
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

A queue says in each answer how long a request that comes now would take. The router passes it on to the
queues of earlier stages, which refuse what cannot be in time: `ipa-budget-ms` leaves the later stages their
least time, and `ipa-aim-ms` is what is left of the SLA.

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
from dataclasses import dataclass
from typing import Any

import orjson

from ipa.dataplane import binary, http
from ipa.dataplane.batching import LossCause, Outcome
from ipa.dataplane.client import ConnectionLostError, OversizedAnswerError
from ipa.dataplane.declared import UNDECLARED, DeclaredModel, parse_model
from ipa.dataplane.environment import edge, required, serve, setting
from ipa.dataplane.expectation import (
    AHEAD_HEADER,
    AIM_HEADER,
    ASKED_HEADER,
    EXPECTED_HEADER,
    NAME_HEADER,
    PUID_HEADER,
    TIMING_HEADER,
    TOOK_HEADER,
    parse_ms,
    parse_times,
    parse_timing,
    server_timing,
    total,
)
from ipa.dataplane.lag import LoopLag
from ipa.dataplane.metrics import RouterMetrics
from ipa.dataplane.routed_parts import (
    ALONE,
    RoutedPart,
    RoutedParts,
    RoutedStage,
    parse_order,
    parse_shares,
)
from ipa.dataplane.tensors import (
    BINARY_OUTPUT,
    INLINE_BYTES,
    UnknownOutputError,
    check_outputs,
    wanted_outputs,
)
from ipa.dataplane.v2 import VERSION, V2Server, json_response, model_ready
from ipa.model.errors import InputError
from ipa.model.serving import FAN_OUT
from ipa.serving.body_budget import aside

# As many as a UUID has.
PUID_BYTES = 16
PUID = re.compile(r"[\x21-\x7e]{1,256}")

# (URL, body, headers) -> (status, body, headers); ConnectionLostError if no answer comes.
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[tuple[int, bytes, Mapping[str, str]]]]

# (URL, seconds) -> (status, body); ConnectionLostError if no answer comes.
Get = Callable[[str, float], Awaitable[tuple[int, bytes]]]

# A body with one of them may have what only the last stage is to know.
LAST_MARKS = (b'"outputs"', f'"{BINARY_OUTPUT}"'.encode())
# The time budget of a request without drop_after, SLA and a budget from the client.
DEFAULT_BUDGET_S = 30.0
DROPPED = (503, 504)
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
# What models declare changes with the pipeline's file; a restart of a stage may bring another.
DECLARED_S = 10.0
# A request that broke two connections in a row may be what crashes the queue.
MAX_BROKEN = 2


@dataclass(frozen=True, slots=True)
class Passed:
    """A request as it is passed on: the body for the first stage, and the members that are the last one's.

    `headers` say how the body is laid out; `names` are the outputs that the request wants, empty for all.
    """

    body: bytes
    headers: Mapping[str, str]
    last: Mapping[str, Any]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Due:
    """The time at which a request is dropped, and that by which the SLA wants its answer."""

    deadline_s: float
    aim_s: float


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
        self._stages = [RoutedStage(name, f"{url}/v2/models/{name}") for name, url in stages]
        known_s = [each for each in (drop_after_s, sla_s, DEFAULT_BUDGET_S) if each is not None]
        self._budget_s, self._sla_s = known_s[0], known_s[0] if sla_s is None else sla_s
        self._post = post or self._client.post
        self._get = get or self._client.get
        # What the last stage's model declares, and until when that counts.
        self._last_declared, self._declared_until_s = UNDECLARED, 0.0
        self._lag = LoopLag()
        self.parts = RoutedParts(self._stages, self._metrics, shares)

    async def _stop(self) -> None:
        self._lag.stop()
        await super()._stop()

    async def _ready(self, _call: http.Call) -> http.Response:
        """Ready while it runs: a queue that is away is waited for, and its replicas are its own affair."""
        return http.Response(b'{"ready":true}')

    async def _read_config(self, call: http.Call) -> http.Response:
        call.require_supervisor(self._admin_token)
        times = {"sla_s": self._sla_s, "drop_after_s": self._budget_s}
        return json_response({**self.parts.to_json(), **times})

    async def _write_config(self, call: http.Call) -> http.Response:
        call.require_supervisor(self._admin_token)
        order = parse_order(call.body)
        if order.shares is not None:
            self.parts.share(order.shares)
        if order.times_s is not None:
            self._sla_s, self._budget_s = order.times_s
        return await self._read_config(call)

    async def _model_ready(self, _call: http.Call) -> http.Response:
        """Ready if every stage is. HttpError 503 names the first that is not."""
        for stage in self._stages:
            status, _ = await self._asked(f"{stage.url}/ready", stage)
            if status != 200:
                raise http.HttpError(503, "not_ready", f"stage {stage.name!r} has no replica yet")
        return model_ready(self._name)

    async def _metadata(self, _call: http.Call) -> http.Response:
        """The inputs of the first stage and the outputs of the last."""
        first, last = self._stages[0], self._stages[-1]
        whole = DeclaredModel(
            "ipa", (await self._declared(first)).inputs, (await self._declared(last)).outputs
        )
        return json_response(whole.to_json(self._name, VERSION))

    async def _declared(self, stage: RoutedStage) -> DeclaredModel:
        """The declaration of the stage's model. HttpError 503: its queue does not answer."""
        status, body = await self._asked(stage.url, stage)
        return parse_model(body) if status == 200 else UNDECLARED

    async def _asked(self, url: str, stage: RoutedStage) -> tuple[int, bytes]:
        try:
            return await self._get(url, ASK_S)
        except (ConnectionLostError, OversizedAnswerError) as error:
            detail = f"stage {stage.name!r}: its queue did not answer: {error}"
            raise http.HttpError(503, "not_ready", detail) from error

    async def _check_names(self, names: Sequence[str]) -> None:
        """Raise InputError if the last stage's model declares outputs, and not all that are named."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._declared_until_s:
            self._declared_until_s = now_s + DECLARED_S
            try:
                self._last_declared = await self._declared(self._stages[-1])
            except http.HttpError:
                # Its queue says so itself when it is asked.
                self._last_declared, self._declared_until_s = UNDECLARED, 0.0
        if self._last_declared.outputs:
            check_outputs(names, [FAN_OUT, *(it.name for it in self._last_declared.outputs)])

    async def _infer(self, call: http.Call) -> http.Response:
        loop = asyncio.get_running_loop()
        # A busy router reads it late. The client counts from when it was sent.
        came_s = loop.time()
        began_s = came_s - self._lag.measure()
        self._metrics.arrivals.inc()
        part = self.parts.choose()
        part.passage.come(came_s)
        puid = call.headers.get(PUID_HEADER) or os.urandom(PUID_BYTES).hex()
        headers = {PUID_HEADER: puid}
        try:
            if not PUID.fullmatch(puid):
                headers = {}
                raise http.HttpError(400, "input", f"{PUID_HEADER} must be 1 to 256 visible ASCII characters")
            asked_s = call.budget_s()
            budget_s = self._budget_s if asked_s is None else min(asked_s, self._budget_s)
            due = Due(began_s + budget_s, began_s + min(self._sla_s, budget_s))
            try:
                passed = await self._passed(call)
                if passed.names:
                    await self._check_names(passed.names)
            except InputError as error:
                raise http.HttpError(400, error.code, str(error), cause=LossCause.INVALID_REQUEST) from error
            response, times = await self._through_stages(part, passed, puid, due)
            total_s = loop.time() - came_s
            times |= {"router": total_s - sum(times.values()), "total": total_s}
            headers[TIMING_HEADER] = server_timing(times)
        except StageLoss as error:
            error.detail += self._times_of(call) if error.status in DROPPED else ""
            response = error.response()
            self._metrics.losses[error.stage, LossCause(error.cause)].inc()
            if error.cause in CROWDED:
                part.passage.lose(loop.time())
        except http.HttpError as error:
            response = error.response()
        except Exception:
            part.metrics.requests[Outcome.FAILED].inc()
            raise
        if response.status == 200:
            part.metrics.request_s.observe(loop.time() - began_s)
        part.metrics.requests[_outcome(response.status)].inc()
        return response.with_headers(headers)

    def _times_of(self, call: http.Call) -> str:
        """The time that a request had, the key that gives it, and the SLA."""
        asked_s, own = call.budget_s(), (self._budget_s, "drop_after")
        given_s, key = own if asked_s is None else min(own, (asked_s, http.BUDGET_HEADER))
        return f"; it had {given_s:.3g} s by {key}, the SLA is {self._sla_s:.3g} s"

    async def _passed(self, call: http.Call) -> Passed:
        """The request as it is passed on; InputError: its layout or its outputs are wrong.

        A body of which nothing is the last stage's is passed on as it came.
        """
        text, rest = binary.json_part(call.body, call.headers.get(binary.JSON_LENGTH_HEADER))
        layout = {binary.JSON_LENGTH_HEADER: str(len(text))} if rest else {}
        if not any(mark in text for mark in LAST_MARKS):
            return Passed(call.body, layout, {})
        request = await call.parse_object(text)
        parameters = request.get("parameters")
        parameters = parameters if isinstance(parameters, dict) else {}
        has_bytes = BINARY_OUTPUT in parameters
        wanted = wanted_outputs(request.get("outputs"), has_bytes)
        names = tuple(wanted or ())
        if len(self._stages) == 1:
            return Passed(call.body, layout, {}, names)
        last = {"outputs": request.pop("outputs")} if "outputs" in request else {}
        if has_bytes:
            last["parameters"] = {BINARY_OUTPUT: parameters.pop(BINARY_OUTPUT)}
        text = await aside(call.is_large, orjson.dumps, request)
        layout = {binary.JSON_LENGTH_HEADER: str(len(text))} if rest else {}
        return Passed(text + rest, layout, last, names)

    async def _through_stages(
        self, part: RoutedPart, passed: Passed, puid: str, due: Due
    ) -> tuple[http.Response, dict[str, float]]:
        _refuse_late(part, due.deadline_s)
        part.passage.enter()
        is_answered = False
        try:
            answer = await self._serve(part, passed, puid, due)
            is_answered = True
        finally:
            part.passage.leave(asyncio.get_running_loop().time(), is_answered=is_answered)
        return answer

    async def _serve(
        self, part: RoutedPart, passed: Passed, puid: str, due: Due
    ) -> tuple[http.Response, dict[str, float]]:
        """The response of the last stage, and the seconds that the request was in each part of the stages."""
        loop = asyncio.get_running_loop()
        body, layout = passed.body, passed.headers
        times: dict[str, float] = {}
        last = len(part.stages) - 1
        for index, stage in enumerate(part.stages):
            sent_s = loop.time()
            headers = {**layout, NAME_HEADER: self._name} if index == last else layout
            status, answer, said = await self._ask(part, index, body, puid, due, headers)
            if status != 200:
                raise _stage_error(stage.name, status, answer, said, is_first=index == 0)
            _add_times(times, stage.name, said, loop.time() - sent_s)
            if index == last:
                return _response(answer, said), times
            try:
                members = passed.last if index == last - 1 else {}
                is_large = len(answer) > INLINE_BYTES
                forwarded = await aside(is_large, outputs_as_inputs, answer, members)
            except (orjson.JSONDecodeError, LookupError, TypeError) as error:
                detail = f"stage {stage.name!r}: its queue's answer is not a V2 response: {error!r}"
                raise StageLoss(stage.name, 502, "failed", detail) from error
            if forwarded is None:
                empty = {"model_name": self._name, **_id_of(orjson.loads(answer)), "outputs": []}
                return json_response(empty), times
            body, layout = forwarded, {}
        raise http.HttpError(502, "failed", f"pipeline {self._name} has no stages")

    async def _ask(
        self, part: RoutedPart, index: int, body: bytes, puid: str, due: Due, given: Mapping[str, str]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of the queue's answer. StageLoss: 504 at the deadline, 502 without one."""
        loop = asyncio.get_running_loop()
        stage = part.stages[index]
        lost: ConnectionLostError | None = None
        broken = 0
        wait_s = FIRST_WAIT_S
        asked_ratio = part.passage.asked_ratio(index, loop.time())
        while (remaining_s := due.deadline_s - (sent_s := loop.time())) > 0:
            headers = {**given, PUID_HEADER: puid, **part.headers, **_budget(part, index, due, sent_s)}
            if asked_ratio > 1:
                headers[ASKED_HEADER] = f"{asked_ratio:.3f}"
            try:
                async with asyncio.timeout(remaining_s + ANSWER_GRACE_S):
                    answer = await self._post(f"{stage.url}/infer", body, headers)
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
                    stage.told_at_s = loop.time()
                    told = parse_times(answer[2].get(EXPECTED_HEADER))
                    stage.told = told.with_hop(stage.told_at_s - sent_s - took_s)
                return answer
            await asyncio.sleep(min(wait_s, max(0.0, due.deadline_s - loop.time())))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        if lost is None:
            raise StageLoss(stage.name, 504, "dropped", "the time budget is spent")
        raise StageLoss(stage.name, 502, "failed", f"its queue did not answer: {lost}") from lost


def _refuse_late(part: RoutedPart, deadline_s: float) -> None:
    """Raise StageLoss 503 if requests wait on the way and this one would hardly be in time behind them.

    The queue would refuse it too; under overload asking it costs more than all the rest. A request that
    is admitted with no time to spare is lost at a later stage, after it has cost what others need.
    """
    now_s = asyncio.get_running_loop().time()
    expected = [stage.told.after(now_s - stage.told_at_s) for stage in part.stages]
    whole = total(expected)
    left_s = deadline_s - now_s
    took_s = whole.wait_s + whole.usual_s if whole.wait_s > 0 else 0.0
    took_s = max(took_s, part.passage.expected_s(now_s))
    missing_s = took_s - ENTRY_RATIO * left_s
    if took_s > 0 and missing_s > 0:
        longest = max(range(len(expected)), key=lambda index: expected[index].wait_s)
        detail = f"it would take {took_s:.3g} s, and has {left_s:.3g} s: too many requests wait"
        raise StageLoss(
            part.stages[longest].name,
            *(503, "dropped", detail),
            cause=LossCause.OVERLOAD,
            retry_after_s=missing_s,
        )


def _budget(part: RoutedPart, index: int, due: Due, now_s: float) -> dict[str, str]:
    """The headers that tell a queue how much time there is, and what the later stages take of it."""
    ahead = total(stage.told.after(now_s - stage.told_at_s) for stage in part.stages[index + 1 :])
    budget_s = max(0.0, due.deadline_s - now_s - ahead.least_s)
    headers = {http.BUDGET_HEADER: f"{budget_s * 1000:.3f}", AHEAD_HEADER: ahead.to_header()}
    if due.aim_s < due.deadline_s:
        headers[AIM_HEADER] = f"{max(0.0, due.aim_s - now_s - ahead.least_s) * 1000:.3f}"
    return headers


def outputs_as_inputs(answer: bytes, members: Mapping[str, Any]) -> bytes | None:
    """Return the request for the next stage, made from a stage's answer; None if the answer has no rows.

    `members` are added to it.
    """
    response = orjson.loads(answer)
    inputs = [tensor for tensor in response["outputs"] if tensor["name"] != FAN_OUT]
    if not inputs or not inputs[0]["shape"][0]:
        return None
    return orjson.dumps({**_id_of(response), **members, "inputs": inputs})


def _id_of(response: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": response["id"]} if "id" in response else {}


def _response(answer: bytes, headers: Mapping[str, str]) -> http.Response:
    """The answer of the last queue as the router's, with its layout."""
    length = headers.get(binary.JSON_LENGTH_HEADER)
    if length is None:
        return http.Response(answer)
    return http.Response(
        answer, content_type=binary.CONTENT_TYPE, headers={binary.JSON_LENGTH_HEADER: length}
    )


def _add_times(times: dict[str, float], stage: str, headers: Mapping[str, str], took_s: float) -> None:
    """Add where the time of a stage went, as its queue says; the rest is that of the hop to it and back."""
    parts = parse_timing(headers.get(TIMING_HEADER))
    for name, seconds in parts.items():
        times[f"{stage}-{name}"] = seconds
    times[f"{stage}-hop"] = took_s - sum(parts.values())


def _stage_error(
    stage: str, status: int, answer: bytes, headers: Mapping[str, str], *, is_first: bool
) -> StageLoss:
    try:
        problem = orjson.loads(answer)
    except orjson.JSONDecodeError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    detail = str(problem.get("detail", f"its queue answered {status}"))
    cause = str(problem.get("cause"))
    if cause not in set(LossCause):
        cause = LossCause.QUEUE_UNREACHABLE
    if status in DROPPED:
        after = headers.get("retry-after", "")
        retry_after_s = float(after) if after.isdecimal() else 0.0
        return StageLoss(stage, status, "dropped", detail, cause=cause, retry_after_s=retry_after_s)
    # Only the first stage sees the client's inputs; an error elsewhere is only the client's if of outputs.
    code = str(problem.get("code", "input"))
    if (is_first or code == UnknownOutputError.code) and 400 <= status < 500:
        return StageLoss(stage, status, code, detail, cause=LossCause.INVALID_REQUEST)
    return StageLoss(stage, 502, "failed", detail, cause=cause)


def _outcome(status: int) -> Outcome:
    if status == 200:
        return Outcome.ANSWERED
    if 400 <= status < 500:
        return Outcome.REFUSED
    return Outcome.DROPPED if status in DROPPED else Outcome.FAILED


def _stage(text: str) -> tuple[str, str]:
    """The name and the URL of NAME=URL; ValueError: it is none."""
    name, url = text.split("=", 1)
    return name, url.rstrip("/")


def main() -> None:
    """Serve until a stop signal, as the environment says."""
    pipeline, _ = required("IPA_PIPELINE", "IPA_STAGES")
    server = RouterServer(
        pipeline,
        setting("IPA_STAGES", lambda text: [*map(_stage, text.split())], []),
        drop_after_s=setting("IPA_DROP_AFTER_S", float, None),
        sla_s=setting("IPA_SLA_S", float, None),
        shares=setting("IPA_SHARES", lambda text: parse_shares(orjson.loads(text)), ALONE),
        **edge(),
    )
    serve(server.application(), server.registry)


if __name__ == "__main__":
    main()
