"""The priority of a model server that has started."""

from __future__ import annotations

import os
import subprocess
import sys

from ipa.targets.local.forkserver import STARTING_NICE, serving_priority


def test_a_server_that_is_ready_has_the_services_priority_where_that_is_allowed() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        os.setpriority(os.PRIO_PROCESS, child.pid, own + STARTING_NICE)
        serving_priority(child.pid)
        found = os.getpriority(os.PRIO_PROCESS, child.pid)
        assert child.stdin is not None
        child.stdin.close()
    assert found == (own if os.geteuid() == 0 else own + STARTING_NICE)


def test_one_that_is_gone_is_none_to_change() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pid = child.pid
    serving_priority(pid)
