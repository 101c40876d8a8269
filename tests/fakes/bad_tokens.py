"""Tokens that do not hold, each for another reason."""

from __future__ import annotations

import hashlib
import hmac
import json

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ipa.adapters.identity.oidc import LONGEST_TOKEN
from tests.fakes.people import ISSUER, claims, jwk, private_key, token, unsigned


def hs256(secret: bytes) -> str:
    """A token signed with what everybody knows, by hand: the library refuses to."""
    header = {"alg": "HS256", "typ": "JWT", "kid": "issuer"}
    signing_input = unsigned(header, "ops").rsplit(".", 1)[0]
    return unsigned(header, "ops", signature=hmac.digest(secret, signing_input.encode(), hashlib.sha256))


def bad_tokens() -> dict[str, str]:
    """Tokens none of which holds."""
    public = private_key().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    stranger = {"alg": "RS256", "kid": "issuer"}
    past = claims()["iat"] - 3600
    good = token("ops")
    return {
        "no token at all": "",
        "words": "not a token",
        "two parts": "a.b",
        "three empty parts": "..",
        "expired": token("ops", exp=past),
        "not yet good": token("ops", nbf=past + 7200),
        "without an end": token("ops", exp=None),
        "forged: signed by another with the issuer's key id": jwt.encode(
            claims("ops"), private_key("thief"), algorithm="RS256", headers={"kid": "issuer"}
        ),
        "forged: another's claims under a good signature": ".".join(
            (good.split(".")[0], token("ops", sub="eve").split(".")[1], good.split(".")[2])
        ),
        "signature cut off": good.rsplit(".", 1)[0] + ".",
        "alg none": unsigned({"alg": "none", "typ": "JWT"}, "ops"),
        "alg None": unsigned({"alg": "None", "kid": "issuer"}, "ops"),
        "alg none with a key id": unsigned({"alg": "none", "kid": "issuer"}, "ops"),
        "HS256 with the public key (PEM)": hs256(pem),
        "HS256 with the public key (JWK)": hs256(json.dumps(jwk()).encode()),
        "HS256 with nothing": hs256(b""),
        "wrong audience": token("ops", aud="others"),
        "no audience": token("ops", aud=None),
        "other issuer": token("ops", iss="https://evil.example"),
        "no issuer": token("ops", iss=None),
        "the issuer with a slash": token("ops", iss=f"{ISSUER}/"),
        "unknown key id": token("ops", key="thief"),
        "a key of its own": jwt.encode(
            claims("ops"),
            private_key("thief"),
            algorithm="RS256",
            headers={"jwk": jwk("thief"), "kid": "thief"},
        ),
        "where to find its key": token("ops", key="thief", headers={"jku": "http://evil.example/jwks"}),
        "a key id that is a path": token("ops", headers={"kid": "../../etc/passwd"}),
        "a key id that is no text": unsigned({**stranger, "kid": ["issuer"]}, "ops"),
        "unknown critical extension": token("ops", headers={"crit": ["x"], "x": 1}),
        "nobody's": token("ops", sub=None),
        "in the name of nothing": token("ops", sub=" "),
        "a name of two lines": token("ops", sub="ada\n2026-01-01 INFO forged"),
        "a name of 300 characters": token("ops", sub="a" * 300),
        "10 000 deep": "W1tb" * 3333 + ".e30.",
        "too long": token("ops", junk="x" * LONGEST_TOKEN),
        "a key that does not exist": f"ipa_{'0' * 12}_{'A' * 43}",
        "the form of a key alone": "ipa_",
        "a key in another case": f"IPA_{'0' * 12}_{'A' * 43}",
    }
