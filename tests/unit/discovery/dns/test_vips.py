import ipaddress

import pytest

from discovery.core.model import ServiceKey
from discovery.core.vips import VIPS_MAX, VipTable
from federation.kernel.errors import LimitExceededError
from tests.unit.discovery.dns.cases import slow_vips

NAMES = [ServiceKey("shop", f"service-{number}") for number in range(20_000)]


def test_an_address_lies_in_the_reserved_blocks_and_its_ipv6_form_ends_with_the_ipv4_one():
    table = VipTable()
    assert table.add(NAMES[0]) == {NAMES[0]}
    vip = table.get(NAMES[0])
    assert vip is not None
    assert ipaddress.IPv4Address(vip.ipv4) in ipaddress.ip_network("241.0.0.0/8")
    assert ipaddress.IPv6Address(vip.ipv6) in ipaddress.ip_network("2001:2:0:6973::/64")
    assert vip.ipv6.endswith(vip.ipv4)


def test_the_address_of_a_name_is_the_same_in_every_release():
    table = VipTable()
    table.add(ServiceKey("shop", "orders"))
    vip = table.get(ServiceKey("shop", "orders"))
    assert vip is not None
    assert str(ipaddress.IPv4Address(vip.ipv4)) == "241.7.163.174"


def test_twenty_thousand_names_get_the_addresses_of_the_rule_and_all_differ():
    table = VipTable()
    for name in reversed(NAMES):
        table.add(name)
    slots = slow_vips(NAMES, VIPS_MAX)
    first = int(ipaddress.IPv4Address("241.0.1.0"))
    vips = {name: table.get(name) for name in NAMES}
    assert {name: int.from_bytes(vip.ipv4, "big") - first for name, vip in vips.items() if vip} == slots
    assert len(set(slots.values())) == len(NAMES)
    candidates = {name: slow_vips([name], VIPS_MAX)[name] for name in NAMES}
    assert candidates != slots, "the names must include a collision, or this shows nothing about them"


def test_a_name_comes_and_goes_once():
    table = VipTable()
    assert table.add(NAMES[0]) == {NAMES[0]}
    assert table.add(NAMES[0]) == frozenset()
    assert table.remove(NAMES[0]) == {NAMES[0]}
    assert table.remove(NAMES[0]) == frozenset()
    assert (table.get(NAMES[0]), len(table)) == (None, 0)


def test_more_names_than_addresses_are_refused_and_change_nothing():
    table = VipTable(slots=2)
    table.add(NAMES[1])
    table.add(NAMES[2])
    before = {name: table.get(name) for name in NAMES[:3]}
    with pytest.raises(LimitExceededError, match="shop/service-0: all 2 clusterset addresses are taken"):
        table.add(NAMES[0])
    assert {name: table.get(name) for name in NAMES[:3]} == before
