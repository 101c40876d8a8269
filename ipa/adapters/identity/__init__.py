"""Authentication of callers: by API key, or by a token that a cluster reviews."""
