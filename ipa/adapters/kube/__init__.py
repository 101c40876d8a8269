"""A client of the Kubernetes API: objects, watches, leases and events. It knows no target."""
