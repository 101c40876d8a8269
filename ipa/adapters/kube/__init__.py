"""A client of the Kubernetes API: objects, leases, events; nothing of any target."""
