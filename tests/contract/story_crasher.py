"""A kubelet's answer to an image that cannot be pulled, for clusters whose pods no kubelet starts."""

from __future__ import annotations

import json
import threading
from typing import Any

Json = dict[str, Any]

# Fake pods are ready within a moment of being bound; the story's own ticks are slower than that.
LOOK_S = 0.05
WAITING = {"waiting": {"reason": "ImagePullBackOff", "message": "the story's image cannot be pulled"}}
UNREADY = ("Ready", "ContainersReady")


class Crasher:
    """Gives every pod of an image the status of one that cannot be pulled, until it is closed.

    `refused` is the HTTP status of the API server's refusal, 0 while there was none.
    """

    def __init__(self, api: Any, namespace: str, selector: str, image: str) -> None:
        from kubernetes import client

        self.refused = 0
        self._core, self._gone = client.CoreV1Api(api), client.ApiException
        self._namespace, self._selector, self._image = namespace, selector, image
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crasher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S) and not self.refused:
            try:
                for pod in self._pods():
                    self._crash(pod)
            except self._gone as error:
                # A pod that is gone by now, or changed meanwhile, is looked at again.
                self.refused = 0 if error.status in (404, 409) else int(error.status)

    def _pods(self) -> list[Json]:
        answer = self._core.list_namespaced_pod(
            self._namespace, label_selector=self._selector, _preload_content=False
        )
        items: list[Json] = json.loads(answer.data)["items"]
        return items

    def _crash(self, pod: Json) -> None:
        broken = [one for one in pod["spec"]["containers"] if one.get("image") == self._image]
        live = pod.get("status") or {}
        if not broken or not _is_scheduled(live) or _is_crashed(live):
            return
        statuses = [
            {
                "name": one["name"],
                "image": one["image"],
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": WAITING,
            }
            for one in broken
        ]
        others = [one for one in live.get("conditions") or () if one["type"] not in UNREADY]
        conditions = [*others, *({"type": kind, "status": "False"} for kind in UNREADY)]
        status = {"phase": "Pending", "containerStatuses": statuses, "conditions": conditions}
        self._core.patch_namespaced_pod_status(
            pod["metadata"]["name"],
            self._namespace,
            {"status": status},
            _content_type="application/merge-patch+json",
            _preload_content=False,
        )


def _is_scheduled(status: Json) -> bool:
    return any(
        condition["type"] == "PodScheduled" and condition["status"] == "True"
        for condition in status.get("conditions") or ()
    )


def _is_crashed(status: Json) -> bool:
    return any(
        "waiting" in (one.get("state") or {})
        and one["state"]["waiting"].get("reason") == WAITING["waiting"]["reason"]
        and not one.get("ready")
        for one in status.get("containerStatuses") or ()
    )
