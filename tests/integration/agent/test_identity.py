"""Leaves are renewed in time and never given up before there is a better one."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import msgspec
import pytest

from certs.core.spiffe import parse
from certs.runtime.identity import LeafIdentity
from federation.agent.directory import DirectoryStore
from federation.agent.identity import RENEW_FROM, RENEW_TO, IdentityKeeper, signer
from federation.api.messages import Directory, SignReply, SignRequest
from federation.kernel.errors import BadIdentityError, IsthmusError, UnavailableError
from tests.integration.agent.fake_controller import FakeController, directory_of
from tests.support.loopback import LoopbackBlock
from tests.support.pki import TestDomain
from tests.support.wait import eventually_async

WAIT_S = 60.0
WORKLOAD = parse("spiffe://alpha.example/ns/shop/sa/orders")

StoreOf = Callable[[Directory], DirectoryStore]
Loopback = Callable[[], LoopbackBlock]


async def test_a_first_leaf_is_asked_for_and_a_renewed_one_has_a_new_key(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback, tmp_path: Path
) -> None:
    async with FakeController(domain, "alpha", loopback().host(1)) as controller:
        store = store_of(directory_of(controller))
        renewed: list[datetime] = []
        leaf = LeafIdentity.load(tmp_path / "workload")
        keeper = IdentityKeeper(
            leaf,
            WORKLOAD,
            cluster="alpha",
            directory=store,
            sign=signer(store, "alpha", domain.agent("alpha")),
            on_renewed=lambda: renewed.append(leaf.not_after),
        )
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(keeper.run())
            await eventually_async(keeper.ready.is_set, timeout_s=WAIT_S)
            running.cancel()
        first_key = leaf.pem().key
        await keeper.renew()
    assert leaf.spiffe_id == WORKLOAD
    assert leaf.pem().key != first_key
    assert len(renewed) == 2
    assert LeafIdentity.load(tmp_path / "workload").pem() == leaf.pem()


async def test_a_leaf_is_due_between_two_and_three_fifths_of_its_life(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    store = store_of(directory_of(FakeController(domain, "alpha", loopback().host(1))))
    leaf = domain.agent("alpha")
    life = leaf.current.not_after - leaf.current.not_before
    dues = {
        (
            IdentityKeeper(leaf, leaf.spiffe_id, cluster="alpha", directory=store, sign=never).due
            - leaf.current.not_before
        )
        / life
        for _ in range(50)
    }
    assert RENEW_FROM <= min(dues) < max(dues) <= RENEW_TO


async def test_a_leaf_stays_while_every_attempt_to_renew_it_fails(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with FakeController(domain, "alpha", loopback().host(1)) as controller:
        controller.sign_error = (
            grpc.StatusCode.PERMISSION_DENIED,
            "agent a1 is not enrolled, or was evicted",
        )
        store = store_of(directory_of(controller))
        leaf = domain.agent("alpha")
        held = leaf.pem()
        overdue = leaf.not_after - timedelta(seconds=5)
        keeper = IdentityKeeper(
            leaf,
            leaf.spiffe_id,
            cluster="alpha",
            directory=store,
            sign=signer(store, "alpha", domain.agent("alpha")),
            clock=lambda: overdue,
        )
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(keeper.run())
            await eventually_async(lambda: "evicted" in keeper.error, timeout_s=WAIT_S)
            running.cancel()
    assert leaf.pem() == held
    assert keeper.valid


async def test_the_next_controller_signs_where_the_first_is_away(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    block = loopback()
    away = FakeController(domain, "alpha", block.host(1))
    async with FakeController(domain, "alpha", block.host(2), id="c2") as there:
        store = store_of(directory_of(away, there))
        leaf = domain.agent("alpha")
        keeper = IdentityKeeper(
            leaf, leaf.spiffe_id, cluster="alpha", directory=store, sign=signer(store, "alpha", leaf)
        )
        await keeper.renew()
    assert there.signed == [str(leaf.spiffe_id)]


async def test_a_foreign_controller_is_never_asked_to_sign(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback
) -> None:
    async with FakeController(domain, "beta", loopback().host(1)) as foreign:
        store = store_of(directory_of(foreign))
        leaf = domain.agent("alpha")
        with pytest.raises(UnavailableError, match="signs for alpha"):
            await signer(store, "alpha", leaf)(
                SignRequest(csr=leaf.create_csr(), identity=str(leaf.spiffe_id))
            )
    assert foreign.signed == []


@pytest.mark.parametrize("kind", ["another identity", "another root", "garbage", "nothing"])
async def test_a_wrong_answer_never_replaces_a_leaf(
    domain: TestDomain, store_of: StoreOf, loopback: Loopback, tmp_path: Path, kind: str
) -> None:
    store = store_of(directory_of(FakeController(domain, "alpha", loopback().host(1))))
    leaf = domain.agent("alpha")
    held = leaf.pem()
    stranger = TestDomain("alpha.example", tmp_path / "stranger")

    async def answer(request: SignRequest) -> SignReply:
        chains: dict[str, Callable[[], tuple[bytes, ...]]] = {
            "another identity": lambda: tuple(domain.authority.sign_leaf(request.csr, WORKLOAD).chain_der),
            "another root": lambda: tuple(
                stranger.authority.sign_leaf(request.csr, leaf.spiffe_id).chain_der
            ),
            "garbage": lambda: (b"garbage",),
            "nothing": lambda: (),
        }
        return SignReply(chain=chains[kind](), not_after_ms=0)

    keeper = IdentityKeeper(leaf, leaf.spiffe_id, cluster="alpha", directory=store, sign=answer)
    with pytest.raises(BadIdentityError):
        await keeper.renew()
    assert leaf.pem() == held


def test_an_expired_leaf_is_not_valid(domain: TestDomain, store_of: StoreOf, loopback: Loopback) -> None:
    store = store_of(directory_of(FakeController(domain, "alpha", loopback().host(1))))
    leaf = domain.agent("alpha")
    keeper = IdentityKeeper(
        leaf,
        leaf.spiffe_id,
        cluster="alpha",
        directory=store,
        sign=never,
        clock=lambda: datetime.now(UTC) + timedelta(days=2),
    )
    assert not keeper.valid


async def never(_request: SignRequest) -> SignReply:
    raise IsthmusError("nobody signs here")


class TwoHomes:
    """The authorities of alpha and beta, of which beta's may be away, and a process that asks whichever it has to."""

    def __init__(self, alpha: TestDomain, beta: TestDomain, store: DirectoryStore) -> None:
        self.domains = {"alpha.example": alpha, "beta.example": beta}
        self.store = store
        self.away: set[str] = set()
        self.signed: list[str] = []

    async def sign(self, request: SignRequest) -> SignReply:
        wanted = parse(request.identity)
        if wanted.trust_domain in self.away:
            raise UnavailableError(f"{wanted.trust_domain} is away")
        self.signed.append(request.identity)
        issued = self.domains[wanted.trust_domain].authority.sign_leaf(request.csr, wanted)
        return SignReply(chain=tuple(issued.chain_der), not_after_ms=0)

    def move_to(self, trust_domain: str) -> None:
        """The directory says by which trust domain the processes of delta are known from now on."""
        held = self.store.current
        newer = msgspec.structs.replace(
            held, revision=held.revision + 1, trust_domains={"delta": trust_domain}
        )
        assert self.store.offer(newer)


@pytest.fixture
def two_homes(domain: TestDomain, store_of: StoreOf, loopback: Loopback, tmp_path: Path) -> TwoHomes:
    beta = TestDomain("beta.example", tmp_path / "beta")
    one = directory_of(FakeController(domain, "alpha", loopback().host(1)))
    roots = {
        name: (each.root.bundle().pem().decode(),)
        for name, each in (("alpha.example", domain), ("beta.example", beta))
    }
    return TwoHomes(domain, beta, store_of(msgspec.structs.replace(one, bundles=roots)))


async def test_a_process_changes_its_identity_at_once_when_its_cluster_moves_and_back(
    two_homes: TwoHomes, tmp_path: Path
) -> None:
    leaf = LeafIdentity.load(tmp_path / "workload")
    keeper = IdentityKeeper(leaf, WORKLOAD, cluster="delta", directory=two_homes.store, sign=two_homes.sign)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(keeper.run())
        for domain in ("alpha.example", "beta.example", "alpha.example"):
            two_homes.move_to(domain)
            await eventually_async(
                lambda domain=domain: leaf.installed and leaf.spiffe_id.trust_domain == domain,
                timeout_s=WAIT_S,
            )
            assert keeper.spiffe_id == leaf.spiffe_id
        running.cancel()
    assert leaf.spiffe_id == WORKLOAD
    assert len(two_homes.signed) == 3


async def test_a_process_that_starts_after_a_move_goes_on_with_what_it_shows(
    two_homes: TwoHomes, tmp_path: Path
) -> None:
    leaf = LeafIdentity.load(tmp_path / "workload")
    two_homes.move_to("beta.example")
    first = IdentityKeeper(leaf, WORKLOAD, cluster="delta", directory=two_homes.store, sign=two_homes.sign)
    await first.renew()
    again = IdentityKeeper(
        LeafIdentity.load(tmp_path / "workload"),
        WORKLOAD,
        cluster="delta",
        directory=two_homes.store,
        sign=two_homes.sign,
    )
    assert str(again.spiffe_id) == "spiffe://beta.example/ns/shop/sa/orders"
    assert again.wanted == again.spiffe_id


async def test_while_the_new_home_is_away_the_old_identity_is_renewed_in_its_time(
    two_homes: TwoHomes, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    leaf = LeafIdentity.load(tmp_path / "workload")
    keeper = IdentityKeeper(
        leaf, WORKLOAD, cluster="delta", directory=two_homes.store, sign=two_homes.sign, clock=lambda: now
    )
    await keeper.renew()
    two_homes.away = {"beta.example"}
    two_homes.move_to("beta.example")
    with pytest.raises(UnavailableError):
        await keeper.renew()
    now += (leaf.not_after - now) * RENEW_TO
    before = leaf.pem()
    await keeper.renew()
    assert leaf.pem() != before
    assert keeper.spiffe_id == leaf.spiffe_id == WORKLOAD
