"""The verbs of `ipa` in groups, with the module of each, and examples for its help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

# Verbs in the order in which `ipa --help` lists them: the module of each, and its examples. A group of verbs
# has a text instead, and the verbs after it follow its name, as in `ipa key create`.
GROUPS: Mapping[str, Mapping[str, tuple[str, ...] | str]] = {
    "Start": {
        "demo": ("serve", "ipa demo", "ipa demo video --rates 5:30 --speed 20"),
        "init": ("init", "ipa init shop --stage detect=small,large --stage read=base --sla 500ms"),
        "import": ("init", "ipa import video -n models", "ipa import --file deployed.yaml --name video"),
        "validate": ("validate", "ipa validate", "ipa validate pipelines/video"),
        "schema": ("validate", "ipa schema pipeline > pipeline.schema.json"),
        "profile": (
            "fit",
            "ipa profile digits --write",
            "ipa profile digits -s locate --cores 1,2 --batches 1,4,16",
        ),
        "fit": ("fit", "ipa fit video", "ipa fit video --stage crop --strict"),
        "doctor": ("doctor", "ipa doctor", "ipa doctor video --at kubernetes", "ipa doctor --store"),
    },
    "Watch": {
        "status": ("lifecycle", "ipa status", "ipa status video -o json"),
        "watch": ("lifecycle", "ipa watch video", "ipa watch video --until settled --timeout 5min"),
        "history": (
            "lifecycle",
            "ipa history video",
            "ipa history video --all --limit 100",
            "ipa history video --verify",
        ),
        "events": ("events", "ipa events", "ipa events video --since 42 --no-follow"),
        "audit": ("events", "ipa audit > record.jsonl", "ipa audit --check record.jsonl"),
        "verify": ("events", "ipa verify decision.json", "ipa verify decision.json --key ipa.sqlite3.key"),
        "url": ("probe", "ipa url video", "ipa url video --curl"),
        "infer": ("probe", "ipa infer video -f request.json", "ipa infer video --timeout 1s -o json"),
        "probe": (
            "probe",
            "ipa probe video",
            "ipa probe video --request request.json --url http://127.0.0.1:8000 -o json",
        ),
        "replay": ("events", "ipa replay video", "ipa replay video video-42-1f2e3d4c --policy hpa"),
    },
    "Change": {
        "diff": ("lifecycle", "ipa diff video", "ipa diff video --rate 20"),
        "apply": (
            "lifecycle",
            "ipa apply video --rate 20",
            "ipa apply plan.json",
            "ipa apply video --plan plan.json",
        ),
        "rollback": ("lifecycle", "ipa rollback video --reason 'latency rose'"),
        "pause": ("lifecycle", "ipa pause video --for 30min --reason release"),
        "resume": ("lifecycle", "ipa resume video"),
        "mode": ("lifecycle", "ipa mode video active", "ipa mode video advisory --reason 'new profiles'"),
        "pin": ("lifecycle", "ipa pin video crop --variant yolov5n --replicas 2"),
        "unpin": ("lifecycle", "ipa unpin video crop"),
        "freeze": ("lifecycle", "ipa freeze video --until 2026-12-27T08:00Z --reason holidays"),
        "unfreeze": ("lifecycle", "ipa unfreeze video", "ipa unfreeze video 1a2b3c4d"),
    },
    "Plan": {
        "plan": (
            "plan",
            "ipa plan video --rate 20",
            "ipa plan video --rate 20 --at http://127.0.0.1:8080 --out plan.json",
        ),
        "explain": ("plan", "ipa explain video --rate 20"),
        "fleet": (
            "plan",
            "ipa fleet video=20 nlp=5 --cores 32 --weight video=2",
            "ipa fleet video=20 nlp=5 --cores 32 --memory 64GiB --accelerators nvidia.com/gpu=2",
        ),
        "render": (
            "plan",
            "ipa render video --rate 20 | kubectl apply -f -",
        ),
        "ci": ("ci", "ipa ci --base origin/main --trace traces/day.txt"),
    },
    "Simulate": {
        "simulate": (
            "simulate",
            "ipa simulate video",
            "ipa simulate video --workload trace.txt --policy hpa --repeats 5",
        ),
        "compare": (
            "simulate",
            "ipa compare video --policies ours,ipa,hpa",
            "ipa compare video --policies ours,ipa --trace trace.txt --seeds 5",
        ),
        "experiment": "Run experiments: policies, loads and seeds in the simulator, with a report.",
        "experiment run": (
            "simulate",
            "ipa experiment run",
            "ipa experiment run mine/experiment.yaml --workers 8",
        ),
    },
    "Operate": {
        "serve": ("serve", "ipa serve", "ipa serve video --target kubernetes --mode advisory --log json"),
        "config": "Show the settings in effect.",
        "config show": (
            "operate",
            "ipa config show --changed",
            "ipa config show store api --at http://127.0.0.1:8080 -o json",
        ),
        "key": "Create, list and revoke API keys of the service.",
        "key create": (
            "operate",
            "ipa key create --role owner -n models",
            "ipa key create --role viewer --expires 30d",
        ),
        "key list": ("operate", "ipa key list"),
        "key revoke": ("operate", "ipa key revoke 0a1b2c3d4e5f"),
        "store": "Back up, restore and prune the store of the service.",
        "store backup": ("operate", "ipa store backup ipa-2026-01-31.sqlite3"),
        "store restore": ("operate", "ipa store restore ipa-2026-01-31.sqlite3"),
        "store prune": ("operate", "ipa store prune"),
    },
}


def help_text(function: Callable[..., Any]) -> str:
    """The docstring of a verb with each paragraph on one line, so that it wraps at the terminal's width."""
    return "\n\n".join(" ".join(each.split()) for each in (inspect.getdoc(function) or "").split("\n\n"))
