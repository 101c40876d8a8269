"""The authors' published data: fetched from its public places by version and digest, and converted."""
