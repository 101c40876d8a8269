"""A control loop in a process of its own, on the machine's clocks, that says what each of its ticks came to.

    python -m tests.faults.sleeper KUBECONFIG

Its first tick that leads makes a change, which never becomes ready: whoever goes on leading takes it back
once its deadline has passed. Times are small, so that nobody waits long.
"""

from __future__ import annotations

import sys
import time

from ipa.adapters.kube import kinds
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ObjectRef
from ipa.adapters.kube.lease import LeaseLeadership, TermLeadership
from ipa.control.election import LeaseTimes
from ipa.control.engine.guards import GuardSettings
from ipa.control.loop.control_loop import LoopPorts
from ipa.control.loop.scheduler import SystemClock
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import PipelineControl
from ipa.model.decision import Decision, Mode
from ipa.policies.ours import Ours
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from tests.fakes.metrics import FakeMetrics
from tests.fakes.store import FakeStore
from tests.fakes.world import loop_over
from tests.faults.world import NAMESPACE, PIPELINE, PLANNER

TIMES = LeaseTimes(lease_s=2.0, renew_deadline_s=1.0, retry_s=0.1)
PLACE = ObjectRef(kinds.LEASE, NAMESPACE, "lease")
TICK_S = 0.2


def main(kubeconfig: str) -> None:
    client = KubeClient.from_kubeconfig(kubeconfig, 5.0)
    clock = SystemClock()
    leadership = LeaseLeadership(client, PLACE, "child", TIMES)
    leadership.start()
    store = FakeStore(PipelineControl(mode=Mode.ACTIVE))
    metrics = FakeMetrics(clock, lambda t_s: 9.0)  # type: ignore[arg-type]

    def say(decision: Decision, snapshot: Snapshot) -> None:
        sys.stdout.write(f"{time.monotonic() - snapshot.tick_s} {decision.reason.value}\n")
        sys.stdout.flush()

    workload = KubeWorkload(client, layout_of)
    ports = LoopPorts(clock, metrics, workload, store, store, leadership=TermLeadership(leadership))
    settings = GuardSettings(tick_s=TICK_S, rollout_deadline_s=1.0)
    loop = loop_over(PIPELINE, ports, Ours(PIPELINE, PLANNER), settings, run_id="child", on_decision=(say,))
    while True:
        clock.wait(loop.step() - clock.monotonic_s())


if __name__ == "__main__":
    main(sys.argv[1])
