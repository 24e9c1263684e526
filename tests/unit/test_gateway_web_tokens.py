"""JSON web tokens: what is taken, and every way around that is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any, Literal

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from slipstream.errors import SlipstreamError
from slipstream.gateway.caller import Caller
from slipstream.gateway.web_tokens import TokenCheck
from slipstream.spec import JwtSpec

SECRET = "0123456789abcdef0123456789abcdef"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def claims(**changes: Any) -> dict[str, Any]:
    valid = {"iss": "https://id.example", "aud": "gateway", "sub": "alice", "exp": int(time.time()) + 60}
    return {name: value for name, value in (valid | changes).items() if value is not None}


def check(tmp_path: Path, algorithm: Literal["HS256", "RS256", "ES256"] = "HS256") -> TokenCheck:
    path = tmp_path / "keys"
    if algorithm == "HS256":
        path.write_text(SECRET + "\n")
    else:
        public = {
            "RS256": json.loads(RSAAlgorithm.to_jwk(RSA.public_key())),
            "ES256": json.loads(ECAlgorithm.to_jwk(EC.public_key())),
        }
        path.write_text(json.dumps({"keys": [{**public[algorithm], "kid": "one", "use": "sig"}]}))
    spec = JwtSpec(algorithm=algorithm, key_file="keys", issuer="https://id.example", audience="gateway", leeway_s=0)
    return TokenCheck(spec, path)


def signed(given: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: Any) -> str:
    return jwt.encode(given, key, algorithm=algorithm, headers=headers or None)


def test_a_valid_token_is_a_caller_with_its_grant(tmp_path: Path) -> None:
    grant = {"models": ["small"], "weight": 3, "priority": "low", "limits": {"tokens_per_day": 5}}
    caller = check(tmp_path).find(signed(claims(slipstream=grant)))
    assert isinstance(caller, Caller)
    assert (caller.name, caller.models, caller.weight, caller.priority) == ("alice", ("small",), 3, "low")
    assert caller.limits.tokens_per_day == 5
    assert caller.id.startswith("jwt-")
    assert "alice" not in caller.id


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"iss": None},
        {"iss": "https://other.example"},
        {"aud": None},
        {"aud": "another"},
        {"sub": None},
        {"nbf": int(time.time()) + 3600},
        {"slipstream": {"models": "small"}},
        {"slipstream": {"admin": True}},
        {"slipstream": "all"},
    ],
    ids=str,
)
def test_a_claim_that_is_missing_or_wrong_lets_nobody_in(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert check(tmp_path).find(signed(claims(**changes))) is None


def test_another_secret_or_no_signature_lets_nobody_in(tmp_path: Path) -> None:
    tokens = check(tmp_path)
    assert tokens.find(signed(claims(), "another secret of thirty-two bytes or more")) is None
    assert tokens.find(signed(claims(), None, "none")) is None
    assert tokens.find(signed(claims(), SECRET * 2, "HS512")) is None
    assert tokens.find(signed(claims(), crit=["exp"])) is None
    for junk in ("", "a.b.c", "..", "é.é.é", "A" * 100_000, signed(claims())[:-2]):
        assert tokens.find(junk) is None


@pytest.mark.parametrize(("algorithm", "private"), [("RS256", RSA), ("ES256", EC)])
def test_a_public_key_verifies_and_does_not_sign(
    tmp_path: Path, algorithm: Literal["RS256", "ES256"], private: Any
) -> None:
    tokens = check(tmp_path, algorithm)
    assert tokens.find(signed(claims(), private, algorithm, kid="one")) is not None
    assert tokens.find(signed(claims(), private, algorithm)) is not None, "the only key there is"
    assert tokens.find(signed(claims(), private, algorithm, kid="two")) is None
    # Algorithm confusion: the public key, which everybody has, as the secret of an HMAC.
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    unsigned = signed(claims(), kid="one").rpartition(".")[0]
    mac = hmac.new(pem, unsigned.encode(), hashlib.sha256).digest()
    assert tokens.find(f"{unsigned}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}") is None


def test_key_files_that_protect_nothing_are_refused(tmp_path: Path) -> None:
    spec = JwtSpec(algorithm="HS256", key_file="k", issuer="i", audience="a")
    path = tmp_path / "k"
    path.write_text("short")
    with pytest.raises(SlipstreamError, match="32 or more"):
        TokenCheck(spec, path)
    asymmetric = spec.model_copy(update={"algorithm": "RS256"})
    weak = json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()))
    for text in ("{", "[]", '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', json.dumps({"keys": [weak]})):
        path.write_text(text)
        with pytest.raises(SlipstreamError, match=r"JWKS|key"):
            TokenCheck(asymmetric, path)
    path.unlink()
    with pytest.raises(SlipstreamError, match="cannot be read"):
        TokenCheck(spec, path)
