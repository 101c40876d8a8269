"""Tokens that do not hold, each for another reason."""

from __future__ import annotations

import base64
import json


def unsigned(algorithm: str, signature: str = "") -> str:
    """A JSON Web Token of an operator with that algorithm and signature."""

    def encode(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"sub": "ada", "groups": ["ops", "system:masters"], "exp": 1 << 40}
    return ".".join((encode({"alg": algorithm, "typ": "JWT"}), encode(claims), signature))


def bad_tokens() -> dict[str, str]:
    """Tokens none of which holds."""
    return {
        "no token at all": "",
        "words": "not a token",
        "two parts": "a.b",
        "three empty parts": "..",
        "unsigned": unsigned("none"),
        "of an issuer that nobody trusts": unsigned("RS256", "c2lnbmF0dXJl"),
        "10 000 deep": "W1tb" * 3333 + ".e30.",
        "too long": unsigned("RS256", "x" * 16 * 1024),
        "a key that does not exist": f"ipa_{'0' * 12}_{'A' * 43}",
        "the form of a key alone": "ipa_",
        "a key in another case": f"IPA_{'0' * 12}_{'A' * 43}",
    }
