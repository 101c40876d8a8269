"""A pipeline's router as a process: `python -m ipa.dataplane.router --pipeline P --port N --stage S=URL ...`.

As a container it takes the same from its environment: IPA_PIPELINE, IPA_STAGES ("detect=http://..."
and more after spaces), IPA_DROP_AFTER_S, IPA_HOST, IPA_DRAIN_S, IPA_METRICS_PORT, and IPA_PORT or the
port that the operator gives it, and IPA_SLA_S.

The router sends a V2 request through the stages' queues in order, as an orchestrator does: the outputs of
one stage are the inputs of the next. A body that needs no change is forwarded as it is.

A queue says in each answer how long a request that comes now would take. The router passes it on to the
queues of earlier stages, which refuse what cannot be in time: `ipa-budget-ms` leaves the later stages their
least time, and `ipa-aim-ms` is what is left of the SLA.

The router retries a queue that it cannot reach until the request's deadline. If a queue breaks the
connection, the router sends the request once more: the queue may have restarted, and inference is idempotent.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson
from prometheus_client import CollectorRegistry

from ipa.dataplane import http
from ipa.dataplane.batching import LossCause, Outcome
from ipa.dataplane.client import Client, ConnectionLostError, OversizedAnswerError
from ipa.dataplane.environment import add, add_address, start_metrics, words
from ipa.dataplane.expectation import (
    AHEAD_HEADER,
    AIM_HEADER,
    ASKED_HEADER,
    EXPECTED_HEADER,
    PUID_HEADER,
    TOOK_HEADER,
    UNKNOWN,
    StageTimes,
    parse_ms,
    parse_times,
    total,
)
from ipa.dataplane.lag import LoopLag
from ipa.dataplane.metrics import RouterMetrics
from ipa.dataplane.passage import Passage
from ipa.model.row_counts import FAN_OUT

PUID = re.compile(r"[\x21-\x7e]{1,256}")

# (URL, body, headers) -> (status, body, headers); ConnectionLostError if no answer comes.
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[tuple[int, bytes, Mapping[str, str]]]]

# The time budget of a request without drop_after and without a budget from the client.
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
# A request that broke two connections in a row may be what crashes the queue.
MAX_BROKEN = 2


@dataclass(slots=True)
class RoutedStage:
    """A stage: its name, the URL of its queue, and what the queue told last of its times, and when."""

    name: str
    url: str
    told: StageTimes = UNKNOWN
    told_at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Due:
    """The time at which a request is dropped, and that by which the SLA wants its answer."""

    deadline_s: float
    aim_s: float


class StageLoss(http.HttpError):
    """A request that ended at a stage without an answer."""

    def __init__(
        self, stage: str, status: int, code: str, detail: str, *, cause: str, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(status, code, detail, cause=cause, retry_after_s=retry_after_s)
        self.stage = stage


class RouterServer:
    """The HTTP server of a pipeline. `stages` are (name, base URL of its queue) in order.

    `hosts` are the accepted host names, empty for any.
    """

    def __init__(
        self,
        pipeline: str,
        stages: Sequence[tuple[str, str]],
        *,
        drop_after_s: float | None = None,
        sla_s: float | None = None,
        post: Post | None = None,
        hosts: frozenset[str] = frozenset(),
    ) -> None:
        self._pipeline = pipeline
        self._hosts = hosts
        self._stages = [RoutedStage(name, f"{url}/v2/models/{name}/infer") for name, url in stages]
        self._budget_s = DEFAULT_BUDGET_S if drop_after_s is None else drop_after_s
        self._sla_s = self._budget_s if sla_s is None else sla_s
        self._metrics = RouterMetrics(pipeline, [name for name, _ in stages])
        self._client = Client()
        self._post = post or self._client.post
        self._lag = LoopLag()
        self._passage = Passage(len(stages))

    @property
    def registry(self) -> CollectorRegistry:
        """Its metrics."""
        return self._metrics.registry

    def application(self) -> http.Application:
        """The ASGI application."""
        path = f"/v2/models/{self._pipeline}"
        return http.Application(
            {
                ("POST", f"{path}/infer"): self._infer,
                ("GET", f"{path}/ready"): self._ready,
                ("GET", "/v2/health/ready"): self._ready,
                ("GET", "/v2/health/live"): self._ready,
                ("GET", "/metrics"): self._metrics.handle,
            },
            start=self._start,
            stop=self._stop,
            hosts=self._hosts,
        )

    async def _start(self) -> None:
        self._lag.start()
        await self._client.open()

    async def _stop(self) -> None:
        self._lag.stop()
        await self._client.close()

    async def _ready(self, _call: http.Call) -> http.Response:
        return http.Response(b"{}")

    async def _infer(self, call: http.Call) -> http.Response:
        loop = asyncio.get_running_loop()
        # A busy router reads it late. The client counts from when it was sent.
        began_s = loop.time() - self._lag.most_s
        self._metrics.arrivals.inc()
        self._passage.come(loop.time())
        puid = call.headers.get(PUID_HEADER) or uuid.uuid4().hex
        headers = {PUID_HEADER: puid}
        try:
            if not PUID.fullmatch(puid):
                headers = {}
                raise http.HttpError(400, "input", f"{PUID_HEADER} must be 1 to 256 visible ASCII characters")
            asked_s = call.budget_s()
            budget_s = self._budget_s if asked_s is None else min(asked_s, self._budget_s)
            due = Due(began_s + budget_s, began_s + min(self._sla_s, budget_s))
            response = http.Response(await self._through_stages(call.body, puid, due))
        except StageLoss as error:
            response = error.response()
            self._metrics.losses[error.stage, LossCause(error.cause)].inc()
            if error.cause in CROWDED:
                self._passage.lose(loop.time())
        except http.HttpError as error:
            response = error.response()
        except Exception:
            self._metrics.requests[Outcome.FAILED].inc()
            raise
        if response.status == 200:
            self._metrics.request_s.observe(loop.time() - began_s)
        self._metrics.requests[_outcome(response.status)].inc()
        return replace(response, headers={**response.headers, **headers})

    async def _through_stages(self, body: bytes, puid: str, due: Due) -> bytes:
        self._refuse_late(due.deadline_s)
        self._passage.enter()
        is_answered = False
        try:
            answer = await self._serve(body, puid, due)
            is_answered = True
        finally:
            self._passage.leave(asyncio.get_running_loop().time(), is_answered=is_answered)
        return answer

    async def _serve(self, body: bytes, puid: str, due: Due) -> bytes:
        for index, stage in enumerate(self._stages):
            status, answer, headers = await self._ask(index, body, puid, due)
            if status != 200:
                raise _stage_error(stage.name, status, answer, headers, is_first=index == 0)
            if index == len(self._stages) - 1:
                return answer
            try:
                forwarded = outputs_as_inputs(answer)
            except (orjson.JSONDecodeError, LookupError, TypeError) as error:
                detail = f"stage {stage.name!r}: its queue's answer is not a V2 response: {error!r}"
                raise _unreachable(stage.name, detail) from error
            if forwarded is None:
                return orjson.dumps({"model_name": self._pipeline, "outputs": []})
            body = forwarded
        raise http.HttpError(502, "failed", f"pipeline {self._pipeline} has no stages")

    async def _ask(
        self, index: int, body: bytes, puid: str, due: Due
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Status, body and headers of the queue's answer. StageLoss: 504 at the deadline, 502 without one."""
        loop = asyncio.get_running_loop()
        stage = self._stages[index]
        lost: ConnectionLostError | None = None
        broken = 0
        wait_s = FIRST_WAIT_S
        asked_ratio = self._passage.asked_ratio(index, loop.time())
        while (remaining_s := due.deadline_s - (sent_s := loop.time())) > 0:
            headers = {PUID_HEADER: puid, **self._budget(index, due, sent_s)}
            if asked_ratio > 1:
                headers[ASKED_HEADER] = f"{asked_ratio:.3f}"
            try:
                async with asyncio.timeout(remaining_s + ANSWER_GRACE_S):
                    answer = await self._post(stage.url, body, headers)
            except TimeoutError:
                raise _out_of_time(stage.name, "no answer within the time budget") from None
            except OversizedAnswerError as error:
                raise _unreachable(stage.name, f"stage {stage.name!r}: {error}") from error
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
            raise _out_of_time(stage.name, "the time budget is used up")
        raise _unreachable(stage.name, f"stage {stage.name!r}: its queue did not answer: {lost}") from lost

    def _refuse_late(self, deadline_s: float) -> None:
        """Raise StageLoss 503 if requests wait on the way and this one would hardly be in time behind them.

        The queue would refuse it too; under overload asking it costs more than all the rest. A request that
        is admitted with no time to spare is lost at a later stage, after it has cost what others need.
        """
        now_s = asyncio.get_running_loop().time()
        expected = [stage.told.after(now_s - stage.told_at_s) for stage in self._stages]
        whole = total(expected)
        left_s = deadline_s - now_s
        took_s = whole.wait_s + whole.usual_s if whole.wait_s > 0 else 0.0
        took_s = max(took_s, self._passage.expected_s(now_s))
        missing_s = took_s - ENTRY_RATIO * left_s
        if took_s > 0 and missing_s > 0:
            longest = max(range(len(expected)), key=lambda index: expected[index].wait_s)
            detail = f"it would take {took_s:.3g} s, and has {left_s:.3g} s: too many requests wait"
            raise StageLoss(
                self._stages[longest].name,
                *(503, "dropped", detail),
                cause=LossCause.OVERLOAD,
                retry_after_s=missing_s,
            )

    def _budget(self, index: int, due: Due, now_s: float) -> dict[str, str]:
        """The headers that tell a queue how much time there is, and what the later stages take of it."""
        ahead = total(stage.told.after(now_s - stage.told_at_s) for stage in self._stages[index + 1 :])
        budget_s = max(0.0, due.deadline_s - now_s - ahead.least_s)
        headers = {http.BUDGET_HEADER: f"{budget_s * 1000:.3f}", AHEAD_HEADER: ahead.to_header()}
        if due.aim_s < due.deadline_s:
            headers[AIM_HEADER] = f"{max(0.0, due.aim_s - now_s - ahead.least_s) * 1000:.3f}"
        return headers


def outputs_as_inputs(answer: bytes) -> bytes | None:
    """Return the request for the next stage, made from a stage's answer; None if the answer has no rows."""
    response = orjson.loads(answer)
    inputs = [tensor for tensor in response["outputs"] if tensor["name"] != FAN_OUT]
    if not inputs or not inputs[0]["shape"][0]:
        return None
    request = {"id": response["id"], "inputs": inputs} if "id" in response else {"inputs": inputs}
    return orjson.dumps(request)


def _unreachable(stage: str, detail: str) -> StageLoss:
    return StageLoss(stage, 502, "failed", detail, cause=LossCause.QUEUE_UNREACHABLE)


def _out_of_time(stage: str, detail: str) -> StageLoss:
    detail = f"stage {stage!r}: {detail}"
    return StageLoss(stage, 504, "dropped", detail, cause=LossCause.NO_TIME_LEFT)


def _stage_error(
    stage: str, status: int, answer: bytes, headers: Mapping[str, str], *, is_first: bool
) -> StageLoss:
    try:
        problem = orjson.loads(answer)
    except orjson.JSONDecodeError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    detail = str(problem.get("detail", f"stage {stage!r}: its queue answered {status}"))
    cause = str(problem.get("cause"))
    if cause not in set(LossCause):
        cause = LossCause.QUEUE_UNREACHABLE
    if status in DROPPED:
        after = headers.get("retry-after", "")
        retry_after_s = float(after) if after.isdecimal() else 0.0
        return StageLoss(stage, status, "dropped", detail, cause=cause, retry_after_s=retry_after_s)
    # Only the first stage sees the client's request; an error elsewhere is not the client's.
    if is_first and 400 <= status < 500:
        code = str(problem.get("code", "input"))
        return StageLoss(stage, status, code, detail, cause=LossCause.INVALID_REQUEST)
    detail = detail if f"stage {stage!r}" in detail else f"stage {stage!r}: {detail}"
    return StageLoss(stage, 502, "failed", detail, cause=cause)


def _outcome(status: int) -> Outcome:
    if status == 200:
        return Outcome.ANSWERED
    if 400 <= status < 500:
        return Outcome.REFUSED
    return Outcome.DROPPED if status in DROPPED else Outcome.FAILED


def _stage(text: str) -> tuple[str, str]:
    name, separator, url = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=URL")
    return name, url.rstrip("/")


def main() -> None:
    """Serve until a stop signal."""
    parser = argparse.ArgumentParser(
        prog="python -m ipa.dataplane.router", description=__doc__.split("\n")[0]
    )
    add(parser, "--pipeline", "IPA_PIPELINE")
    add_address(parser)
    add(parser, "--stage", "IPA_STAGES", action="append", metavar="NAME=URL")
    add(
        parser,
        "--drop-after-s",
        "IPA_DROP_AFTER_S",
        type=float,
        optional=True,
        help="give a request up after this many seconds",
    )
    add(
        parser,
        "--sla-s",
        "IPA_SLA_S",
        type=float,
        optional=True,
        help="answer within this many seconds, by lighter variants if need be",
    )
    given = parser.parse_args()
    try:
        stages = [_stage(text) for text in words(given.stage, "IPA_STAGES")]
    except argparse.ArgumentTypeError as error:
        parser.error(f"--stage: {error}")
    hosts = http.LOOPBACK_NAMES if http.is_loopback(given.host) else frozenset()
    times = {"drop_after_s": given.drop_after_s, "sla_s": given.sla_s}
    server = RouterServer(given.pipeline, stages, **times, hosts=hosts)
    start_metrics(given, server.registry)
    http.serve(server.application(), given.host, given.port, given.drain_s, fd=given.fd)


if __name__ == "__main__":
    main()
