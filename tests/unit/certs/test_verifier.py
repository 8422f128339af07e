"""Forgeries: what the authority of one domain, or a broken one, could sign."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.core.bundle import Bundles, TrustBundle, make_bundle
from certs.core.spiffe import SpiffeId
from certs.core.verifier import VERIFIED_LEAVES_MAX, Purpose, Verifier, prove, verify_chain
from certs.runtime.keystore import new_key
from federation.kernel.errors import BadIdentityError
from tests.support.pki import Forged, TestDomain, bundles_of, sign

NOW = datetime.now(UTC)  # When the module was read, which may be minutes before its tests run.
A = "spiffe://alpha.example/ns/shop/sa/cart"
B = "spiffe://beta.example/ns/shop/sa/cart"
BOTH_PURPOSES: tuple[Purpose, Purpose] = ("client", "server")


@pytest.mark.parametrize("purpose", BOTH_PURPOSES)
@pytest.mark.parametrize("path", ["/ns/shop/sa/cart", "/isthmus/alpha/controller/c1"])
def test_an_honest_leaf_is_who_it_says(
    alpha: TestDomain, beta: TestDomain, purpose: Purpose, path: str
) -> None:
    leaf = alpha.leaf(path)
    found = verify_chain(leaf.chain_der, bundles_of(beta, alpha), datetime.now(UTC), purpose=purpose)
    assert str(found) == f"spiffe://alpha.example{path}"


def test_an_appended_root_changes_nothing(alpha: TestDomain) -> None:
    chain = (*alpha.leaf("/x").chain_der, alpha.root.certificate_der)
    assert verify_chain(chain, alpha.bundles, datetime.now(UTC), purpose="client").path == "/x"


def test_a_leaf_directly_under_the_root_is_valid(alpha: TestDomain) -> None:
    forged = alpha.long_chain(A, intermediates=0)
    assert str(verify_chain(forged.chain_der, alpha.bundles, datetime.now(UTC), purpose="client")) == A


def test_four_intermediates_are_the_most(alpha: TestDomain) -> None:
    now = datetime.now(UTC)
    assert str(verify_chain(alpha.long_chain(A, 4).chain_der, alpha.bundles, now, purpose="client")) == A
    with pytest.raises(BadIdentityError, match="no valid path"):
        verify_chain(alpha.long_chain(A, 5).chain_der, alpha.bundles, now, purpose="client")
    with pytest.raises(BadIdentityError, match="the peer sent 7 certificates"):
        verify_chain(alpha.long_chain(A, 6).chain_der, alpha.bundles, now, purpose="client")


Make = Callable[[TestDomain, TestDomain], Forged]


@pytest.mark.parametrize("purpose", BOTH_PURPOSES)
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda _, b: b.forge(uris=[A]), "another trust domain", id="beta-forges-alpha"),
        pytest.param(lambda _, b: b.forge(uris=[B, A]), "2 URI names", id="two-uris-own-first"),
        pytest.param(lambda _, b: b.forge(uris=[A, B]), "2 URI names", id="two-uris-foreign-first"),
        pytest.param(lambda _, b: b.forge(uris=[B, B]), "2 URI names", id="same-uri-twice"),
        pytest.param(lambda _, b: b.forge(uris=[f"{B},{A}"]), "not the path", id="two-ids-in-one-uri"),
        pytest.param(lambda _, b: b.forge(dns=[A]), "0 URI names", id="dns-name-that-looks-like-an-id"),
        pytest.param(lambda a, _: a.forge(), "0 URI names", id="no-name"),
        pytest.param(
            lambda a, _: a.forge(other_names=[x509.RFC822Name("cart@alpha.example")]),
            "0 URI names",
            id="mail-name",
        ),
        pytest.param(
            lambda a, _: a.forge(uris=["https://alpha.example/x"]), "not a spiffe id", id="other-scheme"
        ),
        pytest.param(lambda a, _: a.forge(uris=["spiffe://alpha.example"]), "no path", id="no-path"),
        pytest.param(lambda a, _: a.forge(uris=["spiffe://alpha.example/"]), "not the path", id="empty-path"),
        pytest.param(
            lambda a, _: a.forge(uris=["spiffe://ALPHA.example/x"]), "not a trust domain", id="capitals"
        ),
        pytest.param(
            lambda a, _: a.forge(uris=["spiffe://beta.example@alpha.example/x"]),
            "not a trust domain",
            id="user-info",
        ),
        pytest.param(
            lambda a, _: a.forge(uris=["spiffe://x.alpha.example/x"]), "another trust", id="sub-domain"
        ),
        pytest.param(
            lambda a, _: a.forge(uris=[A], is_authority=True), "is a certificate authority", id="ca-leaf"
        ),
        pytest.param(
            lambda a, _: a.forge(uris=[A], signs_certificates=True),
            "allows signing certificates",
            id="cert-sign",
        ),
        pytest.param(
            lambda a, _: a.forge(uris=[A], signs_data=False), "lacks digitalSignature", id="no-signature"
        ),
        pytest.param(
            lambda a, _: a.forge(uris=[A], usages=[ExtendedKeyUsageOID.CODE_SIGNING]),
            "does not allow",
            id="wrong-eku",
        ),
        pytest.param(
            lambda a, _: a.forge(
                uris=[A], not_before=NOW - timedelta(days=2), not_after=NOW - timedelta(days=1)
            ),
            "expired at",
            id="expired",
        ),
        pytest.param(
            lambda a, _: a.forge(
                uris=[A], not_before=NOW + timedelta(hours=2), not_after=NOW + timedelta(hours=3)
            ),
            "not valid before",
            id="not-yet-valid",
        ),
    ],
)
def test_a_forged_leaf_is_refused_with_the_reason(
    alpha: TestDomain, beta: TestDomain, make: Make, reason: str, purpose: Purpose
) -> None:
    forged = make(alpha, beta)
    with pytest.raises(BadIdentityError, match=reason):
        verify_chain(forged.chain_der, bundles_of(alpha, beta), datetime.now(UTC), purpose=purpose)


def test_a_leaf_that_may_not_be_a_server_is_none(alpha: TestDomain) -> None:
    forged = alpha.forge(uris=[A], usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
    assert str(verify_chain(forged.chain_der, alpha.bundles, datetime.now(UTC), purpose="client")) == A
    with pytest.raises(BadIdentityError, match="does not allow a server"):
        verify_chain(forged.chain_der, alpha.bundles, datetime.now(UTC), purpose="server")


def _without_root_help(a: TestDomain, b: TestDomain) -> Sequence[bytes]:
    """Beta's leaf that names alpha, with alpha's own intermediate and root as decoration."""
    forged = b.forge(uris=[A])
    return (forged.chain_der[0], a.authority.intermediate.chain_der[0], a.root.certificate_der)


def _unnamed_issuer(_a: TestDomain, b: TestDomain) -> Sequence[bytes]:
    """Beta's root signs an intermediate that names no domain, which signs a leaf that names alpha."""
    root = x509.load_der_x509_certificate(b.root.certificate_der)
    key, leaf_key = new_key(), new_key()
    issuer = sign(
        key.public_key(), issuer=root, issuer_key=b.root._root.key, names=[],
        usages=(), is_authority=True, signs_certificates=True, signs_data=False,
    )  # fmt: skip
    leaf = sign(
        leaf_key.public_key(),
        issuer=x509.load_der_x509_certificate(issuer),
        issuer_key=key,
        names=[x509.UniformResourceIdentifier(A)],
    )
    return (leaf, issuer)


def _leaf_as_issuer(a: TestDomain, _b: TestDomain) -> Sequence[bytes]:
    """An honest leaf of alpha signs a leaf for itself."""
    honest, key = a.leaf("/ns/shop/sa/thief"), new_key()
    leaf = sign(
        key.public_key(),
        issuer=x509.load_der_x509_certificate(honest.chain_der[0]),
        issuer_key=honest.current.key,
        names=[x509.UniformResourceIdentifier(A)],
    )
    return (leaf, *honest.chain_der)


def _intermediate_alone(a: TestDomain, _b: TestDomain) -> Sequence[bytes]:
    return a.authority.intermediate.chain_der


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(_without_root_help, "no valid path", id="decorated-with-alphas-issuers"),
        pytest.param(_unnamed_issuer, "no valid path", id="issuer-without-a-name"),
        pytest.param(_leaf_as_issuer, "another trust domain or names a workload", id="leaf-as-issuer"),
        pytest.param(_intermediate_alone, "no path", id="intermediate-as-leaf"),
        pytest.param(lambda a, _: a.leaf("/x").chain_der[:1], "no valid path", id="intermediate-missing"),
        pytest.param(lambda a, _: a.leaf("/x").chain_der[::-1], "no path", id="wrong-order"),
        pytest.param(lambda _a, _b: [], "no certificate", id="nothing"),
        pytest.param(lambda _a, _b: [b"\x30\x03abc"], "not a certificate", id="garbage"),
        pytest.param(lambda a, _: [*a.leaf("/x").chain_der, b"junk"], "certificate 2", id="garbage-behind"),
        pytest.param(lambda _a, _b: [b"x" * 20_000], "20000 bytes", id="too-large"),
    ],
)
def test_a_forged_chain_is_refused_with_the_reason(
    alpha: TestDomain,
    beta: TestDomain,
    make: Callable[[TestDomain, TestDomain], Sequence[bytes]],
    reason: str,
) -> None:
    with pytest.raises(BadIdentityError, match=reason):
        verify_chain(make(alpha, beta), bundles_of(alpha, beta), datetime.now(UTC), purpose="client")


@pytest.mark.parametrize(
    ("bundles", "reason"),
    [
        pytest.param(lambda _a, _b: {}, "is not known here", id="no-domain"),
        pytest.param(lambda _a, b: b.bundles, "is not known here", id="only-another-domain"),
        pytest.param(
            lambda a, _: {a.trust_domain: make_bundle(a.trust_domain, [])},
            "is empty",
            id="everything-revoked",
        ),
        pytest.param(
            lambda a, b: {a.trust_domain: make_bundle(a.trust_domain, [b.root.certificate_der])},
            "no valid path",
            id="wrong-root",
        ),
        pytest.param(
            lambda a, b: {a.trust_domain: b.bundle}, "is not known here", id="bundle-under-a-wrong-name"
        ),
    ],
)
def test_a_leaf_is_judged_by_the_bundle_of_its_domain_alone(
    alpha: TestDomain, beta: TestDomain, bundles: Callable[[TestDomain, TestDomain], Bundles], reason: str
) -> None:
    with pytest.raises(BadIdentityError, match=reason):
        verify_chain(alpha.leaf("/x").chain_der, bundles(alpha, beta), datetime.now(UTC), purpose="client")


def test_a_proof_holds_no_longer_than_the_shortest_certificate_of_the_path(alpha: TestDomain) -> None:
    leaf = alpha.leaf("/x")
    verified = prove(leaf.chain_der, alpha.bundles, datetime.now(UTC), purpose="client")
    assert verified.not_after == leaf.not_after


class World:
    """A clock and bundles that a test moves, and how often the bundles were asked for."""

    def __init__(self, bundles: Bundles) -> None:
        self.bundles = bundles
        self.now = datetime.now(UTC)

    def verifier(self) -> Verifier:
        return Verifier(lambda: self.bundles, clock=lambda: self.now)


def test_a_remembered_leaf_is_forgotten_when_its_bundle_changes(alpha: TestDomain, beta: TestDomain) -> None:
    world, leaf = World(bundles_of(alpha, beta)), alpha.leaf("/x")
    verifier = world.verifier()
    assert verifier.verify(leaf.chain_der, purpose="client") == leaf.spiffe_id
    world.bundles = beta.bundles
    with pytest.raises(BadIdentityError, match="not known"):
        verifier.verify(leaf.chain_der, purpose="client")
    world.bundles = {alpha.trust_domain: TrustBundle(trust_domain=alpha.trust_domain, roots=())}
    with pytest.raises(BadIdentityError, match="empty"):
        verifier.verify(leaf.chain_der, purpose="client")
    world.bundles = alpha.bundles
    assert verifier.verify(leaf.chain_der, purpose="client") == leaf.spiffe_id


def test_a_remembered_leaf_survives_a_change_of_another_domain(alpha: TestDomain, beta: TestDomain) -> None:
    world, leaf = World(alpha.bundles), alpha.leaf("/x")
    verifier = world.verifier()
    verifier.verify(leaf.chain_der, purpose="client")
    world.bundles = bundles_of(alpha, beta)
    # Without its issuer the chain could not be proved again: the memory answers.
    assert verifier.verify(leaf.chain_der[:1], purpose="client") == leaf.spiffe_id


@pytest.mark.parametrize("moved", [timedelta(days=2), timedelta(days=-2)], ids=["expired", "clock-went-back"])
def test_a_remembered_leaf_is_judged_by_the_clock_again(alpha: TestDomain, moved: timedelta) -> None:
    world, leaf = World(alpha.bundles), alpha.leaf("/x")
    verifier = world.verifier()
    verifier.verify(leaf.chain_der, purpose="client")
    world.now += moved
    with pytest.raises(BadIdentityError, match=r"expired at|not valid before"):
        verifier.verify(leaf.chain_der, purpose="client")


def test_a_leaf_remembered_as_client_is_not_thereby_a_server(alpha: TestDomain) -> None:
    verifier = World(alpha.bundles).verifier()
    forged = alpha.forge(uris=[A], usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
    verifier.verify(forged.chain_der, purpose="client")
    with pytest.raises(BadIdentityError, match="does not allow a server"):
        verifier.verify(forged.chain_der, purpose="server")


def test_the_memory_is_bounded_and_keeps_what_is_new(alpha: TestDomain) -> None:
    verifier = World(alpha.bundles).verifier()
    first, second = alpha.leaf("/first"), alpha.leaf("/second")
    verifier.verify(first.chain_der, purpose="client")
    filler = next(iter(verifier._young.values()))
    verifier._young.update(
        {(index.to_bytes(4, "big"), "client"): filler for index in range(VERIFIED_LEAVES_MAX - 1)}
    )
    verifier.verify(second.chain_der, purpose="client")
    assert len(verifier._young) == 1
    assert len(verifier._old) == VERIFIED_LEAVES_MAX
    assert verifier.verify(first.chain_der[:1], purpose="client") == SpiffeId(
        trust_domain="alpha.example", path="/first"
    )
