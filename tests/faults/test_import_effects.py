"""O7: what an import of the package does, seen from outside by Python's own audit hooks."""

from __future__ import annotations

import json
import subprocess
import sys
from time import perf_counter

from tests.faults.table import Case

WATCHED = """
import json, os, sys
effects = []

class Env(type(os.environ)):
    def __getitem__(self, key):
        # Its own code, not that of the interpreter or of a library.
        if os.sep + "ipa" + os.sep in sys._getframe(1).f_code.co_filename:
            effects.append("read " + str(key))
        return super().__getitem__(key)

os.environ.__class__ = Env

def hook(event, arguments):
    wrote = event == "open" and isinstance(arguments[1], str) and set("wxa+") & set(arguments[1])
    if wrote or event in OTHERS:
        effects.append(event)

OTHERS = "subprocess.Popen os.posix_spawn os.exec socket.connect socket.bind os.remove os.mkdir".split()

sys.dont_write_bytecode = True
sys.addaudithook(hook)
import NAMES
import threading
print(json.dumps([*effects, *("thread" for thread in threading.enumerate()[1:])]))
"""
MODULES = (
    "ipa, ipa.model.pipeline, ipa.optimize.solve, ipa.policies.table, "
    "ipa.control.loop.control_loop, ipa.settings, ipa.library"
)


def test_o7_an_import_does_nothing_else(case: Case) -> None:
    times_ms = {}
    for name, modules in (("the package", "ipa"), ("its core", MODULES)):
        began_s = perf_counter()
        code = WATCHED.replace("NAMES", modules)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        times_ms[name] = f"{1000 * (perf_counter() - began_s):.0f}"
        case.equal(f"side effects of {name}", json.loads(done.stdout), [])
    # Of the interpreter too; what it takes is told, as tests do not time.
    case.note("ms, with the start of Python", times_ms)


def test_o7_the_watch_sees_what_it_watches_for(case: Case) -> None:
    wait = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    bad = f"threading; {wait}; open('/dev/null', 'w').close()"
    code = WATCHED.replace("NAMES", bad)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    effects = json.loads(done.stdout.strip().splitlines()[-1])
    case.equal("detected in a module with both effects", sorted(set(effects)), ["open", "thread"])
