"""Requests made up from the OpenAPI document, over the whole API, in this process."""
