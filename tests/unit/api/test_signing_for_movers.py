"""Who gets an identity of a new home by one of the old one: processes of a cluster on its way, as long as it is."""

from pathlib import Path

import pytest

from certs.core.spiffe import parse, system_identity
from certs.runtime.authority import Authority, RootAuthority
from certs.runtime.identity import LeafIdentity
from discovery.core.commands import AdvanceRehoming, BeginRehoming, Body, ReturnRehoming
from discovery.core.rehoming import CHANGE_LATE_MS
from discovery.core.specs import AgentSpec
from federation.api.admission import Signer
from federation.api.agent_stream import AgentRules
from federation.kernel.errors import NotAllowedError
from tests.unit.discovery.builders import Log, endpoint, founded, key, put, put_token

TOKEN = "c" * 64
BEGIN = BeginRehoming(cluster="delta", to="beta", secret_sha256=TOKEN, started_by="admin", within_ms=60_000)
MOVE, COMMIT, RETURNED = (
    AdvanceRehoming(cluster="delta", state=state) for state in ("announced", "moving", "returning")
)
BACK = ReturnRehoming(cluster="delta", reason="test")


def identities(domain: str) -> dict[str, str]:
    return {
        "agent": f"spiffe://{domain}/isthmus/delta/agent/a1",
        "workload": f"spiffe://{domain}/ns/shop/sa/shop",
    }


OLD, NEW = identities("alpha.test"), identities("beta.test")


def enrolled(*steps: Body) -> Log:
    log = founded()
    spec = {"role": "agent", "namespace": "shop", "serviceAccount": "shop"}
    assert log.write("alpha", put(key("Agent", "agent.a1", scope="delta"), spec)).code == 0
    for cluster, home in (("delta", "alpha"), ("alpha", "alpha"), ("beta", "beta")):
        mirror = put(key("Agent", "controller.m1", scope=cluster), {"role": "controller"})
        assert log.write(home, mirror).code == 0
    assert (
        log.write("beta", put_token("leave", "delta", TOKEN, purpose="cluster", expires_ms=10_000)).code == 0
    )
    for step in steps:
        assert log.send("alpha", step).code == 0
    return log


class Home:
    """A controller that signs for one trust domain."""

    def __init__(self, domain: str, log: Log, folder: Path, *, later_ms: int = 0) -> None:
        authority = Authority.open(folder / "authority")
        authority.enroll(RootAuthority.create(domain))
        self._csr = LeafIdentity.load(folder / "leaf").create_csr()
        self._signer = Signer(
            catalog=log.catalog, authority=authority, now_ms=lambda: log.catalog.now_ms + later_ms
        )

    async def signs(self, caller: str, wanted: str, *, mirror: str = "") -> bool:
        peer, asked_by = (mirror, caller) if mirror else (caller, "")
        try:
            chain, _ = await self._signer.sign_asked(parse(peer), self._csr, wanted, asked_by)
        except NotAllowedError:
            return False
        return len(chain) >= 2


@pytest.mark.parametrize(
    ("steps", "new", "old", "renew"),
    [
        pytest.param((), False, False, "a", id="at-home"),
        pytest.param((BEGIN,), False, False, "ab", id="announced"),
        pytest.param((BEGIN, MOVE), True, False, "ab", id="moving"),
        pytest.param((BEGIN, MOVE, BACK), False, True, "ab", id="returning"),
        pytest.param((BEGIN, MOVE, COMMIT), True, False, "b", id="moved"),
        pytest.param((BEGIN, MOVE, BACK, RETURNED), False, True, "a", id="returned"),
    ],
)
async def test_the_home_that_a_cluster_is_to_have_signs_by_identities_of_the_other_one(
    tmp_path: Path, steps: tuple[Body, ...], new: bool, old: bool, renew: str
) -> None:
    """Homes that a cluster does not have (any more) renew nothing: what has left a trust domain is not to stay in it."""
    log = enrolled(*steps)
    beta, alpha = Home("beta.test", log, tmp_path / "beta"), Home("alpha.test", log, tmp_path / "alpha")
    for what in ("agent", "workload"):
        assert await beta.signs(OLD["agent"], NEW[what]) is new
        assert await alpha.signs(NEW["agent"], OLD[what]) is old
        assert await alpha.signs(OLD["agent"], OLD[what]) is ("a" in renew)
        assert await beta.signs(NEW["agent"], NEW[what]) is ("b" in renew)


@pytest.mark.parametrize(
    ("caller", "wanted"),
    [
        pytest.param("spiffe://gamma.test/isthmus/delta/agent/a1", NEW["agent"], id="of-a-third-trust-domain"),
        pytest.param("spiffe://alpha.test/isthmus/delta/agent/a2", "spiffe://beta.test/isthmus/delta/agent/a2", id="never-enrolled"),
        pytest.param("spiffe://alpha.test/isthmus/alpha/agent/a1", "spiffe://beta.test/isthmus/alpha/agent/a1", id="of-a-cluster-that-stays"),
        pytest.param("spiffe://alpha.test/isthmus/omega/agent/a1", "spiffe://beta.test/isthmus/omega/agent/a1", id="of-no-cluster"),
        pytest.param(OLD["agent"], "spiffe://beta.test/ns/shop/sa/admin", id="another-workload"),
        pytest.param(OLD["agent"], "spiffe://beta.test/isthmus/delta/gateway/a1", id="another-role"),
        pytest.param(OLD["agent"], "spiffe://beta.test/isthmus/beta/controller/c1", id="a-controller"),
        pytest.param(OLD["workload"], NEW["workload"], id="a-workload-itself"),
    ],
)  # fmt: skip
async def test_nobody_gets_anything_else_by_a_move(tmp_path: Path, caller: str, wanted: str) -> None:
    home = Home("beta.test", enrolled(BEGIN, MOVE), tmp_path)
    assert not await home.signs(caller, wanted)


@pytest.mark.parametrize(
    ("steps", "mirrors"),
    [
        pytest.param((), set(), id="at-home"),
        pytest.param((BEGIN,), set(), id="announced"),
        pytest.param((BEGIN, MOVE), {"delta", "delta-moved", "alpha", "beta"}, id="moving"),
        pytest.param((BEGIN, MOVE, COMMIT), {"delta", "delta-moved", "beta"}, id="moved"),
    ],
)
async def test_a_mirror_asks_for_a_process_that_has_not_changed_whether_it_has_itself_or_not(
    tmp_path: Path, steps: tuple[Body, ...], mirrors: set[str]
) -> None:
    home = Home("beta.test", enrolled(*steps), tmp_path)
    found = {
        "delta": "spiffe://alpha.test/isthmus/delta/controller/m1",
        "delta-moved": "spiffe://beta.test/isthmus/delta/controller/m1",
        "alpha": "spiffe://alpha.test/isthmus/alpha/controller/m1",
        "beta": "spiffe://beta.test/isthmus/beta/controller/m1",
        "gamma": "spiffe://gamma.test/isthmus/gamma/controller/m1",
    }
    signed = {
        name for name, mirror in found.items() if await home.signs(OLD["agent"], NEW["agent"], mirror=mirror)
    }
    assert signed == mirrors


@pytest.mark.parametrize("mirror", ["delta", "beta"])
@pytest.mark.parametrize("steps", [(BEGIN,), (BEGIN, MOVE), (BEGIN, MOVE, BACK)])
async def test_the_old_home_gives_its_identities_to_no_mirror_of_the_new_one(
    tmp_path: Path, steps: tuple[Body, ...], mirror: str
) -> None:
    alpha, beta_s = Home("alpha.test", enrolled(*steps), tmp_path), "spiffe://beta.test/isthmus"
    for what in ("agent", "workload"):
        assert not await alpha.signs(OLD["agent"], OLD[what], mirror=f"{beta_s}/{mirror}/controller/m1")


async def test_an_old_identity_is_good_for_a_new_one_for_as_long_as_a_leaf_lives(tmp_path: Path) -> None:
    log = enrolled(BEGIN, MOVE, COMMIT)
    in_time = Home("beta.test", log, tmp_path / "in-time", later_ms=CHANGE_LATE_MS - 1)
    too_late = Home("beta.test", log, tmp_path / "too-late", later_ms=CHANGE_LATE_MS)
    assert await in_time.signs(OLD["agent"], NEW["agent"])
    assert not await too_late.signs(OLD["agent"], NEW["agent"])


def test_an_agent_declares_its_workload_by_either_name_on_the_way_and_by_no_other() -> None:
    domains = ("alpha.test", "beta.test")
    spec = AgentSpec(role="agent", namespace="shop", service_account="orders")
    peer = parse(OLD["agent"])
    system = system_identity(peer)
    assert system is not None
    rules = AgentRules(peer, system, spec, lambda: domains)
    refused = {
        domain: rules.refusal(endpoint("delta", agent="a1", identity=f"spiffe://{domain}/ns/shop/sa/orders"))
        for domain in ("alpha.test", "beta.test", "gamma.test")
    }
    assert [domain for domain, reason in refused.items() if not reason] == ["alpha.test", "beta.test"]
    assert "the agent's workloads have spiffe://alpha.test/ns/shop/sa/orders or" in refused["gamma.test"]
