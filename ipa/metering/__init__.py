"""The metrics of service, router and queues, each declared once, and their Prometheus objects."""
