"""Pipelines as plain Deployments and Services: router, queues and models without an operator."""
