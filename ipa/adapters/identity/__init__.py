"""Authentication of callers: by API key, by an OIDC issuer's token, or by a token that a cluster reviews."""
