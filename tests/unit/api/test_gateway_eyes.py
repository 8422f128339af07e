"""What gateways are told to look at, and whose word of what they saw counts."""

import asyncio

import msgspec

from federation.agent.gateway_watch import sightings
from federation.api.gateway_eyes import FRESH_S, GATEWAYS_NAMED_MAX, GatewayEyes
from federation.api.messages import ProbeTarget, Sightings


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def eyes(clock: Clock | None = None) -> GatewayEyes:
    return GatewayEyes("alpha", clock=clock or Clock())


def target(cluster: str, *names: str) -> ProbeTarget:
    gateways = tuple((name, "10.0.0.1", 15443) for name in names)
    return ProbeTarget(cluster=cluster, trust_domain=f"{cluster}.test", gateways=gateways)


async def test_a_stream_is_told_everything_once_and_then_what_changes():
    made = eyes()
    made.aim(target("beta", "gw-1"))
    made.aim(target("gamma"))  # It has no gateways.
    stream = made.targets()
    first = await anext(stream)
    assert (first.targets, first.whole) == ((target("beta", "gw-1"),), True)
    made.aim(target("beta", "gw-1"))  # Nothing new.
    made.aim(target("gamma", "gw-1"))
    made.aim(target("beta"))
    second = await anext(stream)
    assert not second.whole
    assert set(second.targets) == {target("gamma", "gw-1"), ProbeTarget(cluster="beta")}
    async with asyncio.TaskGroup() as tasks:
        third = tasks.create_task(anext(stream))  # type: ignore[arg-type]  # an awaitable, typed as one that may not be
        await asyncio.sleep(0)
        assert not third.done()
        made.aim(target("gamma", "gw-2"))
        assert (await third).targets == (target("gamma", "gw-2"),)


async def test_a_stream_that_begins_where_nobody_is_to_be_seen_is_told_so():
    first = await anext(eyes().targets())
    assert (first.targets, first.whole) == ((), True)


async def test_of_many_gateways_so_many_are_named():
    made = eyes()
    made.aim(target("beta", *(f"gw-{number}" for number in range(100))))
    first = await anext(made.targets())
    assert len(first.targets[0].gateways) == GATEWAYS_NAMED_MAX


async def test_of_a_cluster_between_two_homes_gateways_learn_both_trust_domains():
    made, moving = eyes(), msgspec.structs.replace(target("delta", "gw-1"), other_trust_domain="beta.test")
    made.aim(target("delta", "gw-1"))
    stream = made.targets()
    await anext(stream)
    made.aim(moving)
    assert (await anext(stream)).targets == (moving,)


def test_the_word_of_a_gateway_counts_until_it_is_taken_back_or_its_stream_ends():
    made, turns, one, two = eyes(), [], object(), object()
    made.aim(target("beta", "gw-1"))
    made.aim(target("gamma", "gw-1"))
    made.on_turn = lambda: turns.append(1)
    made.told(one, Sightings(lost=("beta", "gamma")))
    made.told(two, Sightings(heard=("beta",)))
    assert sorted(made.told_of("beta")) == [False, True]
    assert made.told_of("gamma") == (False,)
    made.told(one, Sightings(unseen=("gamma",)))
    assert made.told_of("gamma") == ()
    made.ended(two)
    assert made.told_of("beta") == (False,)
    made.ended(one)
    assert made.told_of("beta") == ()
    assert len(turns) == 5
    made.ended(object())
    assert len(turns) == 5


def test_the_word_of_a_gateway_that_is_silent_is_old():
    clock = Clock()
    made, stream = eyes(clock), object()
    made.aim(target("beta", "gw-1"))
    made.told(stream, Sightings(heard=("beta",)))
    clock.now_s = FRESH_S
    assert made.told_of("beta") == (True,)
    clock.now_s += 0.001
    assert made.told_of("beta") == ()
    made.heard(stream)
    assert made.told_of("beta") == (True,)


def test_a_gateway_says_what_has_turned_and_nothing_twice():
    news, said = sightings({}, {"beta": True, "gamma": False})
    assert news == Sightings(heard=("beta",), lost=("gamma",))
    assert sightings(said, {"beta": True, "gamma": False}) == (None, said)
    news, said = sightings(said, {"beta": False})
    assert news == Sightings(lost=("beta",), unseen=("gamma",))
    assert said == {"beta": False}


def test_a_gateway_has_no_say_on_whom_it_was_not_told_to_look_at():
    made, stream = eyes(), object()
    made.told(stream, Sightings(heard=("beta",), lost=("x" * 1_000_000,)))
    assert made.told_of("beta") == ()
    assert made.told_of("x" * 1_000_000) == ()
