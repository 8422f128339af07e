"""A mirror asks members to sign for the processes that it serves, and for nobody else."""

from pathlib import Path

import pytest

from certs.core.spiffe import SpiffeId, parse
from certs.runtime.authority import Authority, RootAuthority
from certs.runtime.identity import LeafIdentity
from federation.api.admission import Signer
from federation.api.sign_pace import SIGNED_BURST, SIGNED_EVERY_S, SignPace
from federation.kernel.errors import LimitExceededError, NotAllowedError
from tests.unit.discovery.builders import Log, founded, key, put

MIRROR = "spiffe://alpha.test/isthmus/delta/controller/m1"
AGENT = "spiffe://alpha.test/isthmus/delta/agent/a1"


def enrolled() -> Log:
    """Delta, a remote cluster of alpha, has a mirror and an agent; alpha has an agent."""
    log = founded()
    for scope, name, spec in (
        ("delta", "controller.m1", {"role": "controller"}),
        ("delta", "agent.a1", {"role": "agent", "namespace": "shop", "serviceAccount": "shop"}),
        ("alpha", "agent.a1", {"role": "agent", "namespace": "shop", "serviceAccount": "shop"}),
    ):
        assert log.write("alpha", put(key("Agent", name, scope=scope), spec)).code == 0
    return log


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    root = RootAuthority.create("alpha.test")
    authority = Authority.open(tmp_path / "authority")
    authority.enroll(root)
    return Signer(catalog=enrolled().catalog, authority=authority, now_ms=lambda: 0)


@pytest.fixture
def csr(tmp_path: Path) -> bytes:
    return LeafIdentity.load(tmp_path / "leaf").create_csr()


@pytest.mark.parametrize(
    ("peer", "identity", "caller"),
    [
        pytest.param(MIRROR, MIRROR, "", id="its own"),
        pytest.param(MIRROR, AGENT, AGENT, id="an agent's"),
        pytest.param(MIRROR, "spiffe://alpha.test/ns/shop/sa/shop", AGENT, id="an agent's workload's"),
    ],
)
async def test_a_mirror_gets_what_its_cluster_needs(
    signer: Signer, csr: bytes, peer: str, identity: str, caller: str
) -> None:
    chain, _ = await signer.sign_asked(parse(peer), csr, identity, caller)
    assert len(chain) >= 2


@pytest.mark.parametrize(
    ("peer", "identity", "caller", "said"),
    [
        pytest.param(MIRROR, "spiffe://alpha.test/isthmus/alpha/agent/a1", "spiffe://alpha.test/isthmus/alpha/agent/a1", "does not serve cluster alpha", id="its home's agent"),
        pytest.param(MIRROR, "spiffe://alpha.test/isthmus/alpha/controller/c1", "spiffe://alpha.test/isthmus/alpha/controller/c1", "may not ask for a certificate of", id="a member's"),
        pytest.param(MIRROR, "spiffe://alpha.test/isthmus/alpha/controller/c1", "", "may not have the identity", id="a member's, as itself"),
        pytest.param(MIRROR, "spiffe://alpha.test/isthmus/delta/controller/m2", MIRROR, "may not ask for a certificate of", id="another mirror's"),
        pytest.param(MIRROR, "spiffe://alpha.test/isthmus/delta/agent/a2", "spiffe://alpha.test/isthmus/delta/agent/a2", "is not enrolled, or was evicted", id="one that never enrolled"),
        pytest.param(AGENT, AGENT, AGENT, "may not ask for certificates of others", id="an agent for somebody"),
        pytest.param("spiffe://alpha.test/isthmus/delta/controller/m2", AGENT, AGENT, "is not enrolled as a mirror", id="a mirror that was removed"),
        pytest.param("spiffe://beta.test/isthmus/delta/controller/m1", AGENT, AGENT, "may not ask for certificates of others", id="another trust domain"),
    ],
)  # fmt: skip
async def test_a_mirror_gets_nothing_else(
    signer: Signer, csr: bytes, peer: str, identity: str, caller: str, said: str
) -> None:
    with pytest.raises(NotAllowedError, match=said):
        await signer.sign_asked(parse(peer), csr, identity, caller)


async def signed(signer: Signer, csr: bytes, agent: SpiffeId, times: int) -> None:
    for _ in range(times):
        await signer.sign(agent, csr, str(agent))


async def test_one_process_does_not_fill_the_disk_with_certificates(
    signer: Signer, csr: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.api.sign_pace.SIGNED_BURST", 3)
    await signed(signer, csr, parse(AGENT), 3)
    with pytest.raises(LimitExceededError, match="had 3 certificates signed in a short time"):
        await signed(signer, csr, parse(AGENT), 20)  # A slow machine has earned one or two by now.
    await signed(signer, csr, parse(MIRROR), 3)  # Others are not concerned.


def test_who_waits_may_have_another_certificate() -> None:
    now_s = [100.0]
    pace = SignPace(clock=lambda: now_s[0])
    for _ in range(SIGNED_BURST):
        pace.count(SpiffeId(trust_domain="alpha.test", path="/isthmus/alpha/agent/a"))
    for _ in range(3):
        with pytest.raises(LimitExceededError, match="try again in 10 s"):
            pace.count(SpiffeId(trust_domain="alpha.test", path="/isthmus/alpha/agent/a"))
        now_s[0] += SIGNED_EVERY_S
        pace.count(SpiffeId(trust_domain="alpha.test", path="/isthmus/alpha/agent/a"))
