"""The REST API and its page."""
