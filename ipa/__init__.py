"""Control service that keeps multi-stage inference pipelines inside their latency SLA."""

__version__ = "0.2.0"
