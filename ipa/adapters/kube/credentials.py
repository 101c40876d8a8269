"""Credentials for the API server: read from the pod or a kubeconfig, and read again after a refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ipa.model.errors import ConfigurationError, UnavailableError

# What a connection is made with; a change needs new connections.
CONNECTION = (
    "host",
    "ssl_ca_cert",
    "ca_cert_data",
    "cert_file",
    "key_file",
    "verify_ssl",
    "tls_server_name",
    "proxy",
)


def in_cluster() -> Any:
    """The configuration of the pod it runs in. ConfigurationError outside of a pod."""
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise ConfigurationError(
            f"not running in a pod: {error}", hint="Set IPA_KUBECONFIG to a kubeconfig file."
        ) from error
    return configuration


def from_kubeconfig(path: str, context: str | None = None) -> Any:
    """The configuration of the file's (current) context. ConfigurationError where it cannot be used."""
    from kubernetes import client, config
    from yaml import YAMLError

    configuration = client.Configuration()
    try:
        config.load_kube_config(config_file=path, context=context, client_configuration=configuration)
    except (config.ConfigException, OSError, YAMLError, TypeError, ValueError) as error:
        raise ConfigurationError(f"kubeconfig {path!r} cannot be used: {error}") from error
    return configuration


class Credentials:
    """The configuration in use. `load` reads it again; without it, it stays as it is."""

    def __init__(self, configuration: Any, load: Callable[[], Any] | None = None) -> None:
        self.configuration = configuration
        self._load = load

    def headers(self, what: str) -> Mapping[str, str]:
        """Authentication headers of a request. UnavailableError if a token cannot be read at the moment."""
        from kubernetes.config import ConfigException

        try:
            settings = self.configuration.auth_settings()
        except (ConfigException, OSError, ValueError) as error:
            # Neither the path nor what was found in it: a token may be a part of either.
            raise UnavailableError(
                f"{what}: the service's token cannot be read ({type(error).__name__})"
            ) from None
        return {one["key"]: one["value"] for one in settings.values() if one["value"]}

    def reload(self) -> bool:
        """Read it again; True where connections must be made anew. What cannot be read changes nothing."""
        if self._load is None:
            return False
        try:
            fresh = self._load()
        except (ConfigurationError, OSError):
            return False
        stale = self.configuration
        self.configuration = fresh
        return any(getattr(fresh, name, None) != getattr(stale, name, None) for name in CONNECTION)
