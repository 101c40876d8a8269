"""A router, its queues and toy replicas in one virtual event loop, and what becomes of requests."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count, takewhile

import orjson

from ipa.dataplane.http import Application
from ipa.dataplane.queue import QueueServer
from ipa.dataplane.router import RouterServer
from tests.fakes.virtual_loop import run

BODY = orjson.dumps({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}]})


@dataclass(frozen=True)
class ToyStage:
    """A stage whose batches take `one_s` for the first item and `more_s` for each other, on the mean."""

    name: str
    one_s: float
    more_s: float = 0.0
    batch_size: int = 1
    replicas: int = 1
    # Coefficient of variation of a batch's time.
    spread: float = 0.2
    # By lighter variant, the most accurate first: the part of a batch's time that it takes.
    lighter: Mapping[str, float] = field(default_factory=dict)
    # The same for heavier variants, the next more accurate one first.
    heavier: Mapping[str, float] = field(default_factory=dict)
    largest_batch_size: int = 1
    # True if the queue knows from profiles how much quicker the lighter variants are.
    is_profiled: bool = False

    @property
    def profiled_s(self) -> dict[str, tuple[float, float]]:
        """By variant the time of the first item and of each further one, if they are known."""
        known = {"toy": 1.0, **self.lighter, **self.heavier}
        times = {name: (self.one_s * ratio, self.more_s * ratio) for name, ratio in known.items()}
        return times if self.is_profiled else {}

    @property
    def capacity_rps(self) -> float:
        """Requests a second that its replicas carry in full batches."""
        return self.replicas * self.batch_size / (self.one_s + self.more_s * (self.batch_size - 1))


@dataclass
class Seen:
    """The outcomes of the requests that were sent in the measured time."""

    stages: Mapping[str, ToyStage]
    seconds: float
    sent: int = 0
    in_time: int = 0
    outcomes: Counter[tuple[int, str]] = field(default_factory=Counter)
    # Time until a request that was not served was told so.
    refused_s: list[float] = field(default_factory=list)
    retry_after: list[str] = field(default_factory=list)
    # The text of the metrics of the router and each queue.
    metrics: dict[str, str] = field(default_factory=dict)

    def served(self, stage: str, by: str = "lighter") -> tuple[float, float]:
        """The items that the stage's replicas answered, and those that lighter or heavier variants did."""
        by_variant = {
            str(variant): float(items)
            for variant, items in re.findall(
                r'^ipa_queue_variant_items_total{.*variant="(.*)"} (.*)$', self.metrics[stage], re.MULTILINE
            )
        }
        others = self.stages[stage].lighter if by == "lighter" else self.stages[stage].heavier
        return sum(by_variant.values()), sum(by_variant.get(variant, 0.0) for variant in others)

    @property
    def goodput_rps(self) -> float:
        """Requests a second that were answered in time."""
        return self.in_time / self.seconds


Answer = tuple[int, bytes, dict[str, str]]


async def call(
    application: Application,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """The application's answer to one request, without HTTP."""
    answered: list[dict[str, object]] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, object]) -> None:
        answered.append(message)

    await application(scope, receive, send)  # type: ignore[arg-type]
    start, content = answered
    given = {name.decode(): value.decode() for name, value in start["headers"]}  # type: ignore[union-attr,attr-defined]
    return start["status"], content["body"], given  # type: ignore[return-value]


def overload(
    stages: Sequence[ToyStage],
    rate_rps: float,
    *,
    sla_s: float,
    seconds: float = 8.0,
    warm_up_s: float = 3.0,
    seed: int = 1,
    times_s: Sequence[float] = (),
) -> Seen:
    """The outcomes of Poisson arrivals at that rate, those of the first `warm_up_s` not counted.

    With `times_s` requests are sent then instead.
    """
    rng, arrivals = random.Random(seed), random.Random(seed + 1)
    gaps_s = (arrivals.expovariate(rate_rps) for _ in count())
    times_s = times_s or [*takewhile(lambda at_s: at_s < seconds, accumulate(gaps_s, initial=0.0))]
    results = Seen({stage.name: stage for stage in stages}, seconds - warm_up_s)

    def replicas(stage: ToyStage) -> Application:
        async def serve(url: str, variant: str, body: bytes) -> tuple[int, bytes]:
            inputs = orjson.loads(body)["inputs"]
            items = inputs[0]["shape"][0]
            shape = 1 / stage.spread**2
            mean_s = stage.one_s + stage.more_s * (items - 1)
            ratios = {**stage.lighter, **stage.heavier}
            mean_s *= ratios.get(variant, 1.0)
            await asyncio.sleep(mean_s * rng.gammavariate(shape, 1 / shape))
            return 200, orjson.dumps({"outputs": inputs})

        variants = ("toy", *stage.lighter)
        urls = [f"http://127.0.0.1:{9000 + number}" for number in range(stage.replicas)]
        server = QueueServer(
            "p",
            stage.name,
            sender=serve,
            replicas=dict.fromkeys(urls, variants),
            heavier=dict.fromkeys(urls, tuple(stage.heavier)),
            batch_size=stage.batch_size,
            largest_batch_size=stage.largest_batch_size,
            batch_timeout_s=0.005,
            profiled_s=stage.profiled_s,
        )
        return server.application()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        queues = {stage.name: replicas(stage) for stage in stages}

        async def post(url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
            return await call(queues[url.split("/")[2]], "POST", "/" + url.split("/", 3)[3], body, headers)

        names = [(stage.name, f"http://{stage.name}") for stage in stages]
        router = RouterServer("p", names, drop_after_s=sla_s, post=post).application()

        async def ask() -> None:
            sent_s = loop.time()
            status, body, headers = await call(router, "POST", "/v2/models/p/infer", BODY)
            if sent_s < warm_up_s:
                return
            took_s = loop.time() - sent_s
            results.sent += 1
            results.in_time += status == 200 and took_s <= sla_s
            if status == 200:
                results.outcomes[status, "in time" if took_s <= sla_s else "late"] += 1
            else:
                results.outcomes[status, orjson.loads(body).get("cause", "")] += 1
                results.refused_s.append(took_s)
                results.retry_after.append(headers.get("retry-after", ""))

        requests = []
        for at_s in times_s:
            await asyncio.sleep(at_s - loop.time())
            requests.append(loop.create_task(ask()))
        await asyncio.gather(*requests)
        for name, application in {"router": router, **queues}.items():
            results.metrics[name] = (await call(application, "GET", "/metrics"))[1].decode()

    run(scenario())
    return results
