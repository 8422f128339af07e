import dns.name
import pytest

from discovery.core.dns_names import (
    ORIGIN_WIRE,
    encode_name,
    end_of_name,
    end_of_question_name,
    origin_offset,
    port_name,
    service_name,
)
from discovery.core.model import ServiceKey
from federation.kernel.errors import InvalidInputError


@pytest.mark.parametrize("text", ["", "a", "orders.shop.svc.clusterset.local", "a" * 63 + ".b", "UPPER.Case"])
def test_names_are_encoded_as_dnspython_does_in_lower_case(text):
    assert encode_name(text) == dns.name.from_text(text).canonicalize().to_wire()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a..b", "a label of 0 bytes, expected 1 to 63", id="empty-label"),
        pytest.param("a" * 64 + ".b", "a label of 64 bytes", id="long-label"),
        pytest.param(".".join(["a" * 49] * 6), "at most 255", id="long-name"),
        pytest.param("bücher.example", "is not ASCII", id="not-ascii"),
    ],
)
def test_what_has_no_wire_form_is_refused(text, message):
    with pytest.raises(InvalidInputError, match=message):
        encode_name(text)


def test_the_longest_service_and_port_names_still_fit_a_name():
    host = service_name(ServiceKey("n" * 63, "s" * 63))
    owner = port_name("p" * 62, host)
    assert owner is not None
    assert dns.name.from_wire(owner, 0)[0].labels[:2] == (b"_" + b"p" * 62, b"_tcp")


@pytest.mark.parametrize("port", ["", "p" * 63])
def test_a_port_that_cannot_follow_an_underscore_has_no_name(port):
    assert port_name(port, service_name(ServiceKey("shop", "orders"))) is None


@pytest.mark.parametrize("key", [ServiceKey("shop", "a.b"), ServiceKey("shop", ""), ServiceKey("Shop", "a")])
def test_a_service_whose_name_is_no_label_has_no_owner_name(key):
    with pytest.raises(InvalidInputError):
        service_name(key)


LONGEST = b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63 + b"\x3f" + b"c" * 63 + b"\x3d" + b"d" * 61 + b"\0"


@pytest.mark.parametrize(
    ("wire", "end"),
    [
        pytest.param(b"\0", 1, id="root"),
        pytest.param(b"\1a\0rest", 3, id="one-label"),
        pytest.param(LONGEST, 255, id="255-bytes"),
        pytest.param(b"\1x" + LONGEST, None, id="257-bytes"),
        pytest.param(b"\1a", None, id="no-root"),
        pytest.param(b"\5ab", None, id="label-cut-off"),
        pytest.param(b"\1a\xc0\x0c", None, id="pointer"),
        pytest.param(b"\x40a\0", None, id="reserved-label-type"),
        pytest.param(b"", None, id="nothing"),
    ],
)
def test_a_question_name_is_whole_labels_up_to_the_root(wire, end):
    assert end_of_question_name(b"??" + wire, 2) == (None if end is None else end + 2)


@pytest.mark.parametrize(
    ("wire", "end"),
    [
        pytest.param(b"\0", 1, id="root"),
        pytest.param(b"\1a\xc0\x0crest", 4, id="pointer-behind-a-label"),
        pytest.param(b"\xc0\x0c", 2, id="pointer"),
        pytest.param(b"\xc0", None, id="half-a-pointer"),
        pytest.param(b"\x80a\0", None, id="reserved-label-type"),
        pytest.param(b"\3ab", None, id="label-cut-off"),
        pytest.param(b"\1x" + LONGEST, None, id="257-bytes"),
    ],
)
def test_a_record_name_may_end_in_a_pointer(wire, end):
    assert end_of_name(b"??" + wire, 2) == (None if end is None else end + 2)


@pytest.mark.parametrize(
    ("wire", "offset"),
    [
        pytest.param(ORIGIN_WIRE, 0, id="apex"),
        pytest.param(b"\1a" + ORIGIN_WIRE, 2, id="below"),
        pytest.param(b"\1A" + ORIGIN_WIRE.upper().replace(b"\x0a", b"\x0a"), 2, id="any-letter-case"),
        pytest.param(b"\x05local\0", None, id="above"),
        pytest.param(b"\x07example\0", None, id="elsewhere"),
        pytest.param(b"\0", None, id="root"),
        pytest.param(bytes((len(ORIGIN_WIRE),)) + b"x" + ORIGIN_WIRE[:-1] + b"\0", None, id="inside-a-label"),
        pytest.param(b"\x0cx\x0aclusterset\x05local\0", None, id="label-that-ends-like-the-zone"),
    ],
)
def test_the_zone_begins_at_a_label_boundary_only(wire, offset):
    assert origin_offset(wire, 0, len(wire)) == offset
