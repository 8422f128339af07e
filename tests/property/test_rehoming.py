"""Whatever is proposed by whomever during moves of a cluster: its identities are judged by the homes that it has."""

from hypothesis import event, given, settings
from hypothesis import strategies as st

from discovery.core.commands import (
    AdvanceRehoming,
    BeginRehoming,
    Body,
    ResumeRehoming,
    ReturnRehoming,
    Write,
)
from discovery.core.kinds import decode_spec
from discovery.core.model import ServiceKey
from discovery.core.rehoming import endpoints_of
from discovery.core.specs import ClusterSpec
from discovery.core.views import ViewIndex
from tests.unit.discovery.builders import (
    Log,
    endpoint,
    founded,
    key,
    put_cluster,
    put_export,
    put_grant,
    put_token,
    put_trust_domain,
)

PRIMARIES = ("alpha", "beta", "gamma")
DOMAINS = {name: f"{name}.test" for name in PRIMARIES}
TOKENS = {name: format(number, "x") * 64 for number, name in enumerate(PRIMARIES, start=10)}
ORDERS = ServiceKey("shop", "orders")
NAMES = ("orders-1", "orders-2")

# What happens, and to whom or where: to a move, to the Cluster, to one endpoint, to every one.
steps = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from(PRIMARIES)),
    st.tuples(st.just("advance"), st.sampled_from(("", "", "", "announced", "moving", "returning", "done"))),
    st.tuples(st.just("return"), st.just("")),
    st.tuples(st.just("resume"), st.sampled_from(("", "forced"))),
    st.tuples(st.just("edit"), st.sampled_from(("north", "south"))),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(PRIMARIES)),
    st.tuples(st.just("all"), st.sampled_from(PRIMARIES)),
)
# A move as it should be; anything may happen in its place from any step on.
SCRIPT = [
    ("alpha", ("begin", "beta")),
    ("alpha", ("advance", "")),
    ("alpha", ("all", "beta")),
    ("alpha", ("advance", "")),
]
moves = st.builds(
    lambda begun, rest: SCRIPT[:begun] + rest,
    st.integers(0, len(SCRIPT)),
    st.lists(st.tuples(st.sampled_from(PRIMARIES), steps), max_size=20),
)


def federation() -> Log:
    log = founded()
    log.accept("alpha", put_cluster("gamma"), put_trust_domain("gamma.test"))
    log.accept("alpha", put_export("delta", "shop", "*"), put_grant("delta", "shop", "*"))
    for name in PRIMARIES:
        log.accept(name, put_token(f"of-{name}", "delta", TOKENS[name], purpose="cluster", expires_ms=10**9))
    assert log.publish("delta", endpoint("delta"), proposer="alpha").code == 0
    return log


def spec_of(log: Log) -> ClusterSpec:
    row = log.catalog.tables.resource(key("Cluster", "delta"))
    assert row is not None
    spec = decode_spec("Cluster", row.spec, where="test")
    assert isinstance(spec, ClusterSpec)
    return spec


def body_of(log: Log, what: str, where: str) -> Body:
    match what:
        case "begin":
            return BeginRehoming(
                cluster="delta", to=where, secret_sha256=TOKENS[where], started_by="admin", within_ms=60_000
            )
        case "advance":
            move = spec_of(log).rehoming
            return AdvanceRehoming(cluster="delta", state=where or (move.state if move else "moving"))
        case "return":
            return ReturnRehoming(cluster="delta", reason="test")
        case "resume":
            return ResumeRehoming(cluster="delta", reason="test", forced=where == "forced")
        case _:
            home = spec_of(log).home
            edited = put_cluster("delta", role="remote", home=home, region=where, trustDomain=DOMAINS[home])
            return Write(operations=(edited,))


def take(log: Log, proposer: str, what: str, where: str, version: int) -> None:
    names = NAMES if what == "all" else (what,)
    if not set(names) <= set(NAMES):
        log.send(proposer, body_of(log, what, where))
        return
    log.wait(1_000)  # Whoever published last does not stand in the way.
    identity = f"spiffe://{DOMAINS[where]}/ns/shop/sa/orders"
    rows = [endpoint("delta", name, identity=identity, version=(1, version)) for name in names]
    log.publish("delta", *rows, proposer=proposer)


@settings(max_examples=60, deadline=None)
@given(moves)
def test_callers_always_accept_what_the_endpoints_show_and_nobody_else(moves):
    log = federation()
    for version, (proposer, (what, where)) in enumerate(moves, start=2):
        before = spec_of(log)
        take(log, proposer, what, where, version)
        spec = spec_of(log)
        assert spec.trust_domain == DOMAINS[spec.home]
        # Make before break: callers knew the trust domain that processes change to, and forget none that is shown.
        assert spec.shown_trust_domain in before.trust_domains
        shown = {one.identity for one in endpoints_of(log.catalog.tables, "delta")}
        view = ViewIndex("gamma")
        view.reset(log.catalog.tables)
        service = view.service(ORDERS)
        assert service is not None
        owner = next(one for one in service.owners if one.cluster == "delta")
        assert shown <= set(owner.identities)
        allowed = tuple(f"spiffe://{domain}/" for domain in spec.trust_domains)
        assert all(identity.startswith(allowed) for identity in owner.identities)
        if before.home != spec.home:
            event("moved")
            assert proposer in before.homes
            assert before.rehoming is not None
            assert before.rehoming.state == "moving"
