"""Join tokens as people copy them."""

import base64
import hashlib

import msgspec
import pytest

from certs.core.token import JoinToken, format_token, parse_token, token_hash
from federation.kernel.errors import InvalidInputError

SECRET = bytes(range(32))
TOKEN = JoinToken(
    purpose="agent",
    secret=SECRET,
    federation="demo",
    cluster="alpha",
    endpoints=("127.0.0.1:8443", "[fd00::1]:8443", "api.alpha.example:443"),
    pin="0f" * 32,
    trust_domain="alpha.example",
)
TEXT = format_token(TOKEN)


def packed(**changes: object) -> str:
    """A token whose checksum is right and whose content is not."""
    fields = {**msgspec.to_builtins(TOKEN, builtin_types=(bytes,)), **changes}
    payload = msgspec.msgpack.encode(fields)
    return (
        "isthmus1."
        + base64.urlsafe_b64encode(payload + hashlib.sha256(payload).digest()[:6]).rstrip(b"=").decode()
    )


@pytest.mark.parametrize("purpose", ["cluster", "agent", "gateway", "dns"])
def test_a_token_survives_its_text_form(purpose: str) -> None:
    token = msgspec.structs.replace(TOKEN, purpose=purpose)
    assert parse_token(format_token(token)) == token


def test_white_space_around_a_token_is_forgiven() -> None:
    assert parse_token(f"  {TEXT}\n") == TOKEN


def test_a_token_is_one_word() -> None:
    assert TEXT.startswith("isthmus1.")
    assert not set(TEXT) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "not a join token", id="empty"),
        pytest.param("hello", "not a join token", id="another-text"),
        pytest.param(TEXT.removeprefix("isthmus1."), "not a join token", id="prefix-missing"),
        pytest.param("isthmus2." + TEXT[9:], "version 2, this program reads version 1", id="newer-version"),
        pytest.param(TEXT[:-1], "damaged or cut off", id="last-character-missing"),
        pytest.param(TEXT[:40], "damaged or cut off", id="half"),
        pytest.param("isthmus1.", "damaged or cut off", id="nothing-behind-the-prefix"),
        pytest.param(
            TEXT[:20] + ("A" if TEXT[20] != "A" else "B") + TEXT[21:], "damaged or cut off", id="typo"
        ),
        pytest.param(TEXT + "AAAA", "damaged or cut off", id="something-behind"),
        pytest.param(TEXT[:30] + "\n" + TEXT[30:], "damaged or cut off", id="broken-line"),
        pytest.param(TEXT + "ä", "damaged or cut off", id="not-ascii"),
        pytest.param("isthmus1." + "A" * 5000, "more than 4096", id="too-long"),
        pytest.param(packed(purpose="root"), "wrong content", id="unknown-purpose"),
        pytest.param(packed(extra=1), "wrong content", id="unknown-field"),
        pytest.param(packed(cluster=7), "wrong content", id="wrong-type"),
        pytest.param(packed(secret=b"short"), "5 bytes, expected 32", id="short-secret"),
        pytest.param(packed(pin="0F" * 32), "pin", id="pin-in-capitals"),
        pytest.param(packed(pin="0f"), "pin", id="short-pin"),
        pytest.param(packed(endpoints=[]), "0 endpoints", id="no-endpoint"),
        pytest.param(packed(endpoints=["a:1"] * 17), "17 endpoints", id="too-many-endpoints"),
        pytest.param(packed(endpoints=["127.0.0.1"]), "host:port", id="no-port"),
        pytest.param(packed(endpoints=["127.0.0.1:0"]), "host:port", id="port-0"),
        pytest.param(packed(endpoints=["127.0.0.1:65536"]), "host:port", id="port-65536"),
        pytest.param(packed(endpoints=["user@host:1"]), "host:port", id="user-info"),
        pytest.param(packed(endpoints=["https://host:1"]), "host:port", id="url"),
        pytest.param(packed(cluster="Alpha"), "not a DNS label", id="cluster-in-capitals"),
        pytest.param(packed(federation=""), "not a DNS label", id="no-federation"),
        pytest.param(packed(trust_domain="a b"), "not a trust domain", id="bad-trust-domain"),
    ],
)
def test_a_wrong_token_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidInputError, match=reason):
        parse_token(text)


def test_the_secret_is_in_no_message_and_no_repr() -> None:
    shown = repr(TOKEN) + str(TOKEN)
    assert repr(SECRET) not in shown
    assert SECRET.hex() not in shown
    assert token_hash(SECRET)[:12] in shown


def test_the_federation_knows_a_token_by_its_hash() -> None:
    assert token_hash(SECRET) == hashlib.sha256(SECRET).hexdigest()
