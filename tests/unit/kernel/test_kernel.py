"""Units, names, addresses, errors and versions: what the whole project takes for granted."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.kernel import errors
from federation.kernel.configfile import Section, decode_config, host_port
from federation.kernel.errors import HTTP_STATUS, Code, InvalidInputError, IsthmusError, error_class
from federation.kernel.names import check_label, check_name
from federation.kernel.units import duration_ms
from federation.kernel.versions import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    SCHEMA_VERSION,
    command_schema,
    speaks,
)


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [("0s", 0), ("1ms", 1), ("1500ms", 1_500), ("10s", 10_000), ("5m", 300_000), ("24h", 86_400_000), ("7d", 604_800_000)],
)  # fmt: skip
def test_a_duration_is_a_whole_number_and_a_unit(text: str, expected_ms: int) -> None:
    assert duration_ms(text) == expected_ms


@pytest.mark.parametrize(
    "text", ["", "10", "s", "1.5s", "-1s", " 1s", "1s ", "1 s", "1sec", "1S", "1s1s", "1s\n", "٣s", "²s", "9" * 13 + "s"]
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInputError, match="is not a duration: expected a whole number and a unit"):
        duration_ms(text)


@pytest.mark.parametrize("text", ["a", "0", "a-b", "x" * 63, "1a"])
def test_a_label_is_what_dns_accepts(text: str) -> None:
    assert check_label(text, "here") == text


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a.b", "a_b", "a b", "a\n", "ä", "a\0", "x" * 64])
def test_what_is_no_label_is_refused_naming_its_place(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^here: "):
        check_label(text, "here")


def test_a_long_name_is_not_repeated_in_the_message() -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_label("x" * 1_000_000, "here")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("text", ["a", "a.b", "a-1.example.org", ".".join(["x" * 62] * 4)])
def test_a_name_is_labels_joined_by_dots(text: str) -> None:
    assert check_name(text, "here") == text


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "A.b", "x" * 64 + ".b", "a." * 126 + "aa"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^here: "):
        check_name(text, "here")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:7443", ("10.0.0.1", 7443)),
        ("[fd00::1]:1", ("fd00::1", 1)),
        ("host.example:65535", ("host.example", 65_535)),
        ("a_b-c:80", ("a_b-c", 80)),
    ],
)
def test_an_address_is_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert host_port(text, "key") == expected


@pytest.mark.parametrize(
    "text",
    ["", ":", ":80", "host", "host:", "host:0", "host:65536", "host:999999", "host:-1", "host:+80", "host: 80", "host:²", "host:٣", "fd00::1:80", "[fd00::1:80", "[]:80", 'a"b:80', "a b:80", "a:b:80", "http://a:80", "host:80\n"],
)  # fmt: skip
def test_what_is_no_address_is_refused_naming_the_key(text: str) -> None:
    with pytest.raises(ValueError, match=r"^key: .* is not an address: expected host:port"):
        host_port(text, "key")


@given(st.text())
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        host, port = host_port(text, "key")
    except ValueError:
        return  # What it says is tested above.
    else:
        assert host
        assert 0 < port < 65_536


class Inner(Section, frozen=True, kw_only=True):
    size: int
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("inner.size is negative")


class Outer(Section, frozen=True, kw_only=True):
    name: str
    inner: Inner = Inner(size=1)
    many: tuple[Inner, ...] = ()


def test_a_configuration_is_decoded_with_its_defaults() -> None:
    found = decode_config('name = "x"\n[[many]]\nsize = 2\n', Outer, path="f")
    assert found == Outer(name="x", many=(Inner(size=2),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f: object missing required field `name`"),
        ("name = ", "f: not a TOML file"),
        ("name = " + "[" * 100_000, "f: not a TOML file"),
        ("name = 1", "f: expected `str`, got `int` - at `$.name`"),
        ('nome = "x"', "f: object contains unknown field `nome`: did you mean `name`?"),
        ('name = "x"\n[inner]\nsiez = 1', "f: object contains unknown field `siez` - at `$.inner`: did you mean `size`?"),
        ('name = "x"\n[[many]]\nsiez = 1', "f: object contains unknown field `siez` - at `$.many[0]`: did you mean `size`?"),
        ('[inner]\nsize = 1\nname = "x"', "f: object contains unknown field `name` - at `$.inner`: did you mean `$.name`?"),
        ('name = "x"\nsizes = 1', "f: object contains unknown field `sizes`: did you mean `$.inner.size`?"),
        ('name = "x"\n[inner]\nsize = 1\ncolour = 2', "f: object contains unknown field `colour` - at `$.inner`"),
        ('name = "x"\n[inner]\nsize = "1"', "f: expected `int`, got `str` - at `$.inner.size`"),
        ('name = "x"\n[inner]\nsize = -1', "f: inner.size is negative - at `$.inner`"),
        ('name = "x"\n[[many]]\nsize = 1\nkind = "c"', "f: invalid enum value 'c' - at `$.many[0].kind`"),
        ('name = "x"\nname = "y"', "f: not a TOML file"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_configuration_is_named_with_file_and_place(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_config(text, Outer, path="f")
    assert caught.value.message.startswith(message)


def test_every_error_class_has_its_own_code_and_an_http_status() -> None:
    classes = IsthmusError.__subclasses__()
    assert len({one.code for one in classes}) == len(classes)
    for one in classes:
        assert error_class(int(one.code)) is one
        assert HTTP_STATUS[one.code] >= 400
    assert set(HTTP_STATUS) == set(Code)


@pytest.mark.parametrize("code", [0, 2, 99, -1])
def test_a_code_that_nobody_knows_is_an_internal_error(code: int) -> None:
    assert error_class(code) is IsthmusError


def test_the_message_of_an_error_is_its_first_argument() -> None:
    assert errors.NotFoundError("x is gone").message == "x is gone"
    assert errors.NotFoundError().message == "NotFoundError"


def test_older_protocols_than_the_oldest_supported_are_not_spoken() -> None:
    assert speaks(PROTOCOL_VERSION)
    assert speaks(PROTOCOL_VERSION + 1)  # The newer side adapts.
    assert speaks(PROTOCOL_VERSION_MIN)
    assert not speaks(PROTOCOL_VERSION_MIN - 1)


@pytest.mark.parametrize(
    ("live", "schema"),
    [((), SCHEMA_VERSION), ((1,), 1), ((2, 1, 2), 1), ((2, 2), 2), ((99,), SCHEMA_VERSION), ((0,), 1)],
)
def test_commands_carry_the_newest_schema_that_every_live_controller_applies(
    live: tuple[int, ...], schema: int
) -> None:
    assert command_schema(live) == schema
