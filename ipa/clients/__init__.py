"""Clients of pipelines: one interface, over a service's REST API or over use cases in this process."""
