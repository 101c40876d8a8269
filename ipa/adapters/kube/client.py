"""The Kubernetes API, as much of it as we use: every call has a deadline, every failure an error of ours."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ipa.adapters.kube.manifest import GROUP, KIND, PLURAL, VERSION
from ipa.model.errors import (
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    InputError,
    IpaError,
    NotFoundError,
    UnavailableError,
)

FIELD_MANAGER = "ipa-serving"
JSON_PATCH = "application/json-patch+json"
# An API server's answer to us is a few kilobytes; a list of a pipeline's pods below a megabyte.
LONGEST_BODY = 16 * 1024 * 1024
CHUNK = 64 * 1024
# Enough of a webhook's refusal to act on.
LONGEST_MESSAGE = 400

Json = dict[str, Any]


class KubeClient:
    """Reads and patches SeldonDeployments, reads Deployments and pods.

    Errors of every call: ConflictError (409, or a `test` of the patch failed), InputError (refused by schema
    or webhook), ForbiddenError (401, 403), NotFoundError, UnavailableError (no answer in time, 429, 5xx, or
    an answer that is none; after a write it is then unknown whether it happened). No body is quoted but
    the message of a refusal.
    """

    def __init__(self, configuration: Any, timeout_s: float) -> None:
        from kubernetes import client  # half a second; only where a cluster is used

        # A repeated request is a decision of ours, and the deadline is for all of it.
        configuration.retries = False
        self._timeout_s = timeout_s
        self._api = client.ApiClient(configuration)
        self._custom = client.CustomObjectsApi(self._api)
        self._apps = client.AppsV1Api(self._api)
        self._core = client.CoreV1Api(self._api)
        self._leases = client.CoordinationV1Api(self._api)
        self._api_error = client.ApiException

    @classmethod
    def in_cluster(cls, timeout_s: float) -> KubeClient:
        """A client with the service account of the pod it runs in. ConfigurationError outside of a pod."""
        from kubernetes import client, config

        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise ConfigurationError(
                f"not in a pod of a cluster: {error}", hint="Set IPA_KUBECONFIG to a kubeconfig file."
            ) from error
        return cls(configuration, timeout_s)

    @classmethod
    def from_kubeconfig(cls, path: str, timeout_s: float, context: str | None = None) -> KubeClient:
        """A client with the file's (current) context. ConfigurationError where it cannot be used."""
        from kubernetes import client, config
        from yaml import YAMLError

        configuration = client.Configuration()
        try:
            config.load_kube_config(config_file=path, context=context, client_configuration=configuration)
        except (config.ConfigException, OSError, YAMLError, TypeError, ValueError) as error:
            raise ConfigurationError(f"kubeconfig {path!r} cannot be used: {error}") from error
        return cls(configuration, timeout_s)

    def close(self) -> None:
        """Close every connection."""
        self._api.close()

    def get_seldondeployment(self, namespace: str, name: str) -> Json:
        """The SeldonDeployment of that name."""
        what = f"SeldonDeployment {namespace}/{name}"
        return self._call(
            KIND, what, self._custom.get_namespaced_custom_object, GROUP, VERSION, namespace, PLURAL, name
        )

    def create_seldondeployment(self, namespace: str, body: Json, *, dry_run: bool = False) -> Json:
        """The SeldonDeployment as created (dry_run: as it would be). ConflictError where it exists."""
        what = f"SeldonDeployment {namespace}/{body['metadata']['name']}"
        create = self._custom.create_namespaced_custom_object
        return self._call(
            KIND, what, create, GROUP, VERSION, namespace, PLURAL, body, **_write_options(dry_run)
        )

    def patch_seldondeployment(
        self, namespace: str, name: str, patch: Sequence[Mapping[str, Any]], *, dry_run: bool = False
    ) -> Json:
        """The SeldonDeployment after the JSON Patch (dry_run: as it would be)."""
        what = f"SeldonDeployment {namespace}/{name}"
        options = {**_write_options(dry_run), "_content_type": JSON_PATCH}
        operations = [dict(operation) for operation in patch]
        send = self._custom.patch_namespaced_custom_object
        return self._call(KIND, what, send, GROUP, VERSION, namespace, PLURAL, name, operations, **options)

    def get_deployment(self, namespace: str, name: str) -> Json | None:
        """The Deployment of that name, None where there is none (yet)."""
        what = f"Deployment {namespace}/{name}"
        try:
            return self._call("Deployment", what, self._apps.read_namespaced_deployment, name, namespace)
        except NotFoundError:
            return None

    def list_pods(self, namespace: str, labels: Mapping[str, str]) -> list[Json]:
        """The pods with those labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        read = self._core.list_namespaced_pod
        found = self._call("PodList", f"pods of {namespace}", read, namespace, label_selector=selector)
        pods = found.get("items")
        if not isinstance(pods, list):
            raise UnavailableError(f"pods of {namespace}: the answer has no items")
        return pods

    def get_lease(self, namespace: str, name: str) -> Json:
        """The Lease of that name; NotFoundError where there is none."""
        return self._call(
            "Lease", f"Lease {namespace}/{name}", self._leases.read_namespaced_lease, name, namespace
        )

    def create_lease(self, namespace: str, body: Json) -> Json:
        """The Lease as created. ConflictError where another was faster."""
        what = f"Lease {namespace}/{body['metadata']['name']}"
        options = _write_options(dry_run=False)
        return self._call("Lease", what, self._leases.create_namespaced_lease, namespace, body, **options)

    def replace_lease(self, namespace: str, name: str, body: Json) -> Json:
        """The Lease as replaced. ConflictError where it is no more at the body's resourceVersion."""
        what = f"Lease {namespace}/{name}"
        if not body["metadata"].get("resourceVersion"):
            # Without it the server would overwrite whoever holds it.
            raise InputError(f"{what}: a replacement needs the resourceVersion that was read")
        options = _write_options(dry_run=False)
        return self._call(
            "Lease", what, self._leases.replace_namespaced_lease, name, namespace, body, **options
        )

    def _call(self, kind: str, what: str, call: Callable[..., Any], *args: Any, **options: Any) -> Json:
        from urllib3.exceptions import HTTPError
        from urllib3.exceptions import TimeoutError as NoAnswerError

        started_s = time.monotonic()
        try:
            response = call(*args, **options, _preload_content=False, _request_timeout=self._timeout_s)
            try:
                body = self._read_body(response, started_s, what)
            finally:
                response.close()
        except self._api_error as error:
            raise _error_of(what, int(error.status or 0), error.body) from None
        except NoAnswerError:
            raise UnavailableError(f"{what}: no answer within {self._timeout_s:g} s") from None
        except (HTTPError, OSError) as error:
            raise UnavailableError(f"{what}: no answer ({type(error).__name__})") from None
        return _object_of(what, kind, body)

    def _read_body(self, response: Any, started_s: float, what: str) -> bytes:
        """The whole body; a socket's time-out alone would let a server send a byte a second for ever."""
        parts, length = [], 0
        while part := response.read1(CHUNK):
            parts.append(part)
            length += len(part)
            if length > LONGEST_BODY:
                raise UnavailableError(f"{what}: the answer is longer than {LONGEST_BODY} bytes")
            if time.monotonic() - started_s > self._timeout_s:
                raise UnavailableError(f"{what}: no whole answer within {self._timeout_s:g} s")
        return b"".join(parts)


def _write_options(dry_run: bool) -> dict[str, Any]:
    options = {"field_manager": FIELD_MANAGER, "field_validation": "Strict"}
    return {**options, "dry_run": "All"} if dry_run else options


def _object_of(what: str, kind: str, body: bytes) -> Json:
    try:
        found = json.loads(body)
    except ValueError:
        raise UnavailableError(f"{what}: the answer is not JSON") from None
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise UnavailableError(f"{what}: the answer is not a {kind}")
    if not isinstance(found.get("metadata"), dict):
        raise UnavailableError(f"{what}: the answer has no metadata")
    return found


def _error_of(what: str, status: int, body: str | None) -> IpaError:
    found = _status_of(body)
    message = str(found.get("message", ""))[:LONGEST_MESSAGE]
    match status:
        case 400 | 422 if not _is_failed_patch(status, found):
            return InputError(f"{what}: refused by the cluster: {message or 'no reason given'}")
        case 409 | 422:
            return ConflictError(
                f"{what}: was changed since it was read", hint="Read it again and decide again."
            )
        case 401 | 403:
            return ForbiddenError(
                f"{what}: not allowed ({status})", hint="Check the service account's role (deploy/rbac)."
            )
        case 404:
            return NotFoundError(f"{what}: does not exist")
        case _:
            return UnavailableError(f"{what}: the API server answered {status}")


def _status_of(body: str | None) -> Json:
    try:
        found = json.loads(body or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}


def _is_failed_patch(status: int, found: Json) -> bool:
    """Whether a 422 means that a `test` failed: the server then names neither an object nor a cause."""
    details = found.get("details") or {}
    named = bool(details.get("causes") or details.get("name"))
    return status == 422 and not named and "admission webhook" not in str(found.get("message", ""))
