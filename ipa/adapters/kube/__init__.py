"""A client of the Kubernetes API: objects, watches, leases, events; nothing of any target."""
