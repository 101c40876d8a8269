"""The groups of `ipa --help`, and examples for the help of each verb."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import typer
from typer.models import CommandInfo, TyperInfo

# Verbs in the order in which `ipa --help` lists them, with examples.
GROUPS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Start": {
        "demo": ("ipa demo", "ipa demo video --rates 5:30 --speed 20"),
        "init": ("ipa init shop --stage detect=small,large --stage read=base --sla 500ms",),
        "import": ("ipa import video -n models", "ipa import --file deployed.yaml --name video"),
        "validate": ("ipa validate", "ipa validate pipelines/video"),
        "schema": ("ipa schema pipeline > pipeline.schema.json",),
        "profile": (
            "ipa profile digits --write",
            "ipa profile digits -s locate --cores 1,2 --batches 1,4,16",
            "ipa profile digits -s locate --variants ridge --cores 1 --url http://127.0.0.1:9000",
        ),
        "fit": ("ipa fit video", "ipa fit video --stage crop --strict"),
        "doctor": ("ipa doctor", "ipa doctor video --at kubernetes", "ipa doctor --store"),
        "completion": ("ipa completion bash > ~/.local/share/bash-completion/completions/ipa",),
    },
    "Watch": {
        "status": ("ipa status", "ipa status video --at kubernetes -o json"),
        "watch": ("ipa watch video", "ipa watch video --until settled --timeout 5min"),
        "history": (
            "ipa history video",
            "ipa history video --all --limit 100",
            "ipa history video --incidents",
            "ipa history video --verify",
        ),
        "events": ("ipa events", "ipa events video --since 42 --no-follow"),
        "audit": ("ipa audit > record.jsonl", "ipa audit --check record.jsonl"),
        "url": ("ipa url video", "ipa url video --curl"),
        "infer": ("ipa infer video -f request.json", "ipa infer video --timeout 1s -o json"),
        "probe": (
            "ipa probe video",
            "ipa probe video --request request.json --url http://127.0.0.1:8000 -o json",
        ),
        "replay": ("ipa replay video", "ipa replay video video-42-1f2e3d4c --policy hpa"),
    },
    "Change": {
        "diff": ("ipa diff video", "ipa diff video --rate 20 --at kubernetes"),
        "apply": ("ipa apply video --rate 20", "ipa apply plan.json", "ipa apply video --plan plan.json"),
        "rollback": ("ipa rollback video --reason 'latency rose'",),
        "push": ("ipa push video", "ipa push video --set sla.latency=800ms --reason 'checkout week'"),
        "deploy": ("ipa deploy approval.json --at http://127.0.0.1:8080 --reason '#42'",),
        "pause": ("ipa pause video --for 30min --reason release",),
        "resume": ("ipa resume video",),
        "mode": ("ipa mode video active", "ipa mode video advisory --reason 'new profiles'"),
        "pin": ("ipa pin video crop --variant yolov5n --replicas 2",),
        "unpin": ("ipa unpin video crop",),
        "freeze": ("ipa freeze video --until 2026-12-27T08:00Z --reason holidays",),
        "unfreeze": ("ipa unfreeze video", "ipa unfreeze video 1a2b3c4d"),
        "release": ("ipa release video --at kubernetes",),
    },
    "Plan": {
        "plan": ("ipa plan video --rate 20", "ipa plan video --rate 20 --at kubernetes --out plan.json"),
        "sweep": ("ipa sweep video --rates 1:45:2",),
        "explain": ("ipa explain video --rate 20",),
        "frontier": ("ipa frontier video --rate 20 --plot frontier.svg",),
        "fleet": (
            "ipa fleet video=20 nlp=5 --cores 32 --weight video=2",
            "ipa fleet video=20 nlp=5 --cores 32 --memory 64GiB --accelerators nvidia.com/gpu=2",
        ),
        "render": (
            "ipa render video --rate 20 | kubectl apply -f -",
            "ipa render video --monitors | kubectl apply -f -",
        ),
        "ci": ("ipa ci --base origin/main --comment comment.md --approval approval.json",),
    },
    "Simulate": {
        "simulate": (
            "ipa simulate video",
            "ipa simulate video --workload trace.txt --policy hpa --repeats 5",
        ),
        "compare": (
            "ipa compare video --policies ours,ipa,hpa",
            "ipa compare video --policies ours,ipa --trace trace.txt --seeds 5",
        ),
        "experiment": (),
        "experiment run": (
            "ipa experiment run",
            "ipa experiment run mine/experiment.yaml --engine dask://10.0.0.1:8786",
        ),
        "experiment compare": ("ipa experiment compare before/mine after/mine",),
        "experiment report": ("ipa experiment report runs/experiments/mine",),
        "forecast": (),
        "forecast backtest": ("ipa forecast backtest", "ipa forecast backtest trace.csv --train 0.7"),
    },
    "Operate": {
        "serve": ("ipa serve", "ipa serve video --target kubernetes --mode advisory --log json"),
        "config": (),
        "config show": (
            "ipa config show --changed",
            "ipa config show store api --at http://127.0.0.1:8080 -o json",
        ),
        "key": (),
        "key create": ("ipa key create --role owner -n models", "ipa key create --role viewer --expires 30d"),
        "key list": ("ipa key list",),
        "key revoke": ("ipa key revoke 0a1b2c3d4e5f",),
        "store": (),
        "store backup": ("ipa store backup ipa-2026-01-31.sqlite3",),
        "store restore": ("ipa store restore ipa-2026-01-31.sqlite3",),
        "store prune": ("ipa store prune --within 60",),
        "store stats": ("ipa store stats",),
    },
}


def arrange(app: typer.Typer) -> None:
    """Put every verb of the application into its group, in the order of `GROUPS`, with its examples.

    KeyError names a verb that is in no group.
    """
    places = {
        verb: (at, group, examples)
        for at, (verb, group, examples) in enumerate(
            (verb, group, examples) for group, verbs in GROUPS.items() for verb, examples in verbs.items()
        )
    }

    def order(info: CommandInfo | TyperInfo, before: str) -> int:
        return places[before + name_of(info)][0]

    def visit(part: typer.Typer, before: str) -> None:
        for command in part.registered_commands:
            _, group, examples = places[before + name_of(command)]
            command.rich_help_panel = None if before else group
            command.help = _reflowed(inspect.getdoc(command.callback) or "")
            is_one = len(examples) == 1
            command.epilog = f"Example: {examples[0]}" if is_one else "\n\n".join(("Examples:", *examples))
        for each in part.registered_groups:
            each.rich_help_panel = places[before + name_of(each)][1]
            if each.typer_instance is not None:
                visit(each.typer_instance, f"{before}{name_of(each)} ")
        part.registered_commands.sort(key=lambda command: order(command, before))

    visit(app, "")


def name_of(info: CommandInfo | TyperInfo) -> str:
    """The name of a verb or of a group of verbs, as it is typed."""
    if info.name:
        return str(info.name)
    if isinstance(info, TyperInfo):
        return str(info.typer_instance.info.name if info.typer_instance else "")
    return str(getattr(info.callback, "__name__", "")).replace("_", "-")


def _reflowed(text: str) -> str:
    """The text with each paragraph on one line, so that it wraps at the width of the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
