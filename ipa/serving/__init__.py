"""The HTTP server that the API and the data plane run on: uvicorn, with bounds on its connections."""

from ipa.serving.connections import ServerBounds, raise_file_limit, within_files
from ipa.serving.protocol import BoundedConfig, BoundedServer

__all__ = ["BoundedConfig", "BoundedServer", "ServerBounds", "raise_file_limit", "within_files"]
