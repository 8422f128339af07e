import hypothesis.strategies as st
from hypothesis import given

from discovery.core.model import ServiceKey
from discovery.core.vips import VipTable
from tests.unit.discovery.dns.cases import slow_vips

SLOTS = 24
NAMES = [ServiceKey("shop", f"s{number}") for number in range(20)]
FIRST_IPV4 = 241 << 24 | 256


def slots_of(table):
    vips = {name: table.get(name) for name in NAMES}
    return {
        name: int.from_bytes(vip.ipv4, "big") - FIRST_IPV4 for name, vip in vips.items() if vip is not None
    }


@given(st.permutations(NAMES), st.lists(st.tuples(st.booleans(), st.sampled_from(NAMES)), max_size=40))
def test_addresses_are_a_function_of_the_set_and_every_move_is_told(crowd, changes):
    table = VipTable(slots=SLOTS)
    for name in crowd:  # Nearly full, so that several names wait for one slot.
        table.add(name)
    assert slots_of(table) == slow_vips(NAMES, SLOTS)
    present = set(NAMES)
    for add, name in changes:
        before = slots_of(table)
        moved = table.add(name) if add else table.remove(name)
        (present.add if add else present.discard)(name)
        after = slots_of(table)
        assert after == slow_vips(present, SLOTS)
        assert moved == {each for each in NAMES if before.get(each) != after.get(each)}
    for name in NAMES:
        table.remove(name)
    assert len(table) == 0
    assert (table._holder, table._refused) == ({}, {}), "an empty table remembers nothing"
