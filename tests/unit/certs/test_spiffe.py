"""Vectors written from the SPIFFE-ID standard, sections 2.1 to 2.4."""

import pytest

from certs.core import spiffe
from certs.core.spiffe import SpiffeId, SystemIdentity, WorkloadIdentity
from federation.kernel.errors import InvalidInputError


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://td/a",
        "spiffe://trust-domain_1.example/ns/x/sa/y",
        "spiffe://10.0.0.7/x",
        "spiffe://td/A.b-c_d/0",
        "spiffe://td/...",
        "spiffe://" + "a" * 255 + "/x",
        "spiffe://td/" + "p" * (2048 - 12),
        "spiffe://td",
    ],
)
def test_a_legal_id_is_read_and_written_unchanged(text: str) -> None:
    assert str(spiffe.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "td/a",
        "http://td/a",
        "spiffe:/td/a",
        "spiffe:///a",
        "spiffe://",
        "spiffe://td/",
        "spiffe://td/a/",
        "spiffe://td//a",
        "spiffe://td/./a",
        "spiffe://td/../a",
        "spiffe://td/a/..",
        "spiffe://td/a%20b",
        "spiffe://t%64/a",
        "spiffe://u@td/a",
        "spiffe://u:p@td/a",
        "spiffe://td:8443/a",
        "spiffe://td/a?q=1",
        "spiffe://td/a#f",
        "spiffe://td?q",
        "spiffe://[::1]/a",
        "spiffe://td/a b",
        "spiffe://td/ä",
        "spiffe://tä/a",
        "spiffe://td/a\n",
        "spiffe://td\n",
        "spiffe://td\x00/a",
        "spiffe://td/a:b",
        "spiffe://td/a,spiffe://evil/b",
        " spiffe://td/a",
        "spiffe://td/a*",
        "spiffe://td\\evil/a",
        "spiffe://td/\u0661",
        pytest.param("SPIFFE://td/a", id="scheme in capitals"),
        pytest.param("spiffe://TD/a", id="trust domain in capitals"),
        pytest.param("spiffe://" + "a" * 256 + "/x", id="trust domain of 256 bytes"),
        pytest.param("spiffe://td/" + "p" * (2048 - 11), id="2049 bytes"),
    ],
)
def test_an_illegal_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        spiffe.parse(text)


@pytest.mark.parametrize(
    ("trust_domain", "path"), [("TD", "/a"), ("td", "a"), ("td", "/"), ("td", "/a/../b"), ("", "/a")]
)
def test_an_illegal_id_cannot_be_built(trust_domain: str, path: str) -> None:
    with pytest.raises(InvalidInputError):
        SpiffeId(trust_domain=trust_domain, path=path)


def test_a_message_shows_a_strangers_text_escaped_and_cut() -> None:
    with pytest.raises(InvalidInputError) as refused:
        spiffe.parse("spiffe://td/\x1b[31m" + "x" * 1000)
    assert "\x1b" not in refused.value.message
    assert len(refused.value.message) < 300


def test_a_workload_id_says_namespace_and_service_account() -> None:
    spiffe_id = spiffe.workload_id("a.example", "shop", "cart")
    assert str(spiffe_id) == "spiffe://a.example/ns/shop/sa/cart"
    assert spiffe.workload_identity(spiffe_id) == WorkloadIdentity(namespace="shop", service_account="cart")
    assert spiffe.system_identity(spiffe_id) is None


@pytest.mark.parametrize("role", sorted(spiffe.SYSTEM_ROLES))
def test_a_system_id_says_cluster_role_and_id(role: str) -> None:
    spiffe_id = spiffe.system_id("a.example", "alpha", role, "x1")
    assert str(spiffe_id) == f"spiffe://a.example/isthmus/alpha/{role}/x1"
    assert spiffe.system_identity(spiffe_id) == SystemIdentity(cluster="alpha", role=role, id="x1")
    assert spiffe.workload_identity(spiffe_id) is None


@pytest.mark.parametrize(
    "path",
    [
        "/isthmus/alpha/root/x",
        "/isthmus/alpha/agent",
        "/isthmus/alpha/agent/x/y",
        "/x/isthmus/alpha/agent/x",
        "/ns/a/sa",
        "/ns/a/sa/b/c",
        "/ns/a/SA/b",
        "",
    ],
)
def test_other_paths_mean_nothing_to_us(path: str) -> None:
    spiffe_id = SpiffeId(trust_domain="a.example", path=path)
    assert spiffe.system_identity(spiffe_id) is None
    assert spiffe.workload_identity(spiffe_id) is None


@pytest.mark.parametrize("segment", ["", "a/b", "..", "a b", "ä"])
def test_a_name_that_would_change_the_shape_of_the_path_is_refused(segment: str) -> None:
    with pytest.raises(InvalidInputError):
        spiffe.workload_id("a.example", segment, "sa")
    with pytest.raises(InvalidInputError):
        spiffe.system_id("a.example", "alpha", "agent", segment)


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="controller"):
        spiffe.system_id("a.example", "alpha", "root", "x")
