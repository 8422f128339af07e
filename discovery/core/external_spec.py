"""What must hold of an ExternalService and of an ExternalObservation by themselves, beyond their types."""

import ipaddress

from discovery.core.specs import (
    EXTERNAL_ADDRESSES_MAX,
    EXTERNAL_CHECK_MS_MAX,
    EXTERNAL_CHECKERS_MAX,
    EXTERNAL_COUNT_MAX,
    EXTERNAL_INTERVAL_MS_MIN,
    EXTERNAL_STATUSES_MAX,
    GROUP_PORTS_MAX,
    GROUP_PROBE_MS_MIN,
    ExternalCheck,
    ExternalObservationSpec,
    ExternalServiceSpec,
)
from federation.kernel.errors import InvalidInputError
from federation.kernel.names import check_label, check_name
from federation.kernel.units import duration_ms

PATH_CHARS_MAX = 1_000


def check_external_service(spec: ExternalServiceSpec, where: str) -> None:
    """Raise `InvalidInputError` naming the field, the value and what was expected."""
    _check_addresses(spec.addresses, f"{where}.addresses")
    _check_ports(spec, f"{where}.ports")
    if len(spec.checked_from) > EXTERNAL_CHECKERS_MAX:
        raise InvalidInputError(
            f"{where}.checkedFrom has {len(spec.checked_from)} entries, expected at most {EXTERNAL_CHECKERS_MAX}"
        )
    for position, name in enumerate(spec.checked_from):
        check_label(name, f"{where}.checkedFrom[{position}]")
    _check_unique(spec.checked_from, f"{where}.checkedFrom")
    _check_check(spec, spec.check, f"{where}.check")


def check_external_observation(spec: ExternalObservationSpec, where: str) -> None:
    """The same of what a checker misses."""
    _check_addresses(spec.missed, f"{where}.missed")


def _check_addresses(addresses: tuple[str, ...], where: str) -> None:
    if not 1 <= len(addresses) <= EXTERNAL_ADDRESSES_MAX:
        raise InvalidInputError(
            f"{where} has {len(addresses)} entries, expected 1 to {EXTERNAL_ADDRESSES_MAX}"
        )
    for position, text in enumerate(addresses):
        try:
            address = ipaddress.ip_address(text)
        except ValueError as error:
            raise InvalidInputError(f"{where}[{position}]: {text[:80]!r} is not an IP address") from error
        # A second spelling would pass rules written for the first one.
        if address.version == 6 and address.ipv4_mapped is not None:
            raise InvalidInputError(f"{where}[{position}] is {text[:80]!r}, expected {address.ipv4_mapped}")
        if str(address) != text or "%" in text:
            raise InvalidInputError(
                f"{where}[{position}] is {text[:80]!r}, expected its shortest form without a zone"
            )
    _check_unique(addresses, where)


def _check_ports(spec: ExternalServiceSpec, where: str) -> None:
    if not 1 <= len(spec.ports) <= GROUP_PORTS_MAX:
        raise InvalidInputError(f"{where} has {len(spec.ports)} entries, expected 1 to {GROUP_PORTS_MAX}")
    for position, port in enumerate(spec.ports):
        check_label(port.name, f"{where}[{position}].name")
        if not 1 <= port.port <= 65_535:
            raise InvalidInputError(
                f"{where}[{position}].port is {port.port}, expected a port from 1 to 65535"
            )
        if not 0 <= port.target_port <= 65_535:
            raise InvalidInputError(
                f"{where}[{position}].targetPort is {port.target_port}, expected a port from 1 to 65535, or 0 for"
                " the same as port"
            )
    _check_unique(tuple(port.name for port in spec.ports), f"{where}.name")
    _check_unique(tuple(str(port.port) for port in spec.ports), f"{where}.port")


def _check_check(spec: ExternalServiceSpec, check: ExternalCheck, where: str) -> None:
    if check.port and check.port not in {port.port for port in spec.ports}:
        raise InvalidInputError(f"{where}.port is {check.port}, expected one of the service's ports")
    if not check.path.startswith("/") or not check.path.isprintable() or len(check.path) > PATH_CHARS_MAX:
        raise InvalidInputError(
            f"{where}.path: {check.path[:80]!r} is not a path: expected a slash and printable characters,"
            f" at most {PATH_CHARS_MAX}"
        )
    _check_http(check, where)
    for field, text, least in (
        ("interval", check.interval, EXTERNAL_INTERVAL_MS_MIN),
        ("timeout", check.timeout, GROUP_PROBE_MS_MIN),
    ):
        try:
            length_ms = duration_ms(text)
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}.{field}: {error.message}") from error
        if not least <= length_ms <= EXTERNAL_CHECK_MS_MAX:
            raise InvalidInputError(f"{where}.{field} is {text!r}, expected {least}ms to an hour")
    for field, count in (("failures", check.failures), ("successes", check.successes)):
        if not 1 <= count <= EXTERNAL_COUNT_MAX:
            raise InvalidInputError(f"{where}.{field} is {count}, expected 1 to {EXTERNAL_COUNT_MAX}")


def _check_http(check: ExternalCheck, where: str) -> None:
    """What is asked and answered; TCP has neither."""
    for field, value in (("host", check.host), ("statuses", check.statuses)):
        if value and check.kind != "http":
            raise InvalidInputError(f"{where}.{field} is given, expected none: kind is {check.kind}")
    if check.host:
        check_name(check.host, f"{where}.host")
    if len(check.statuses) > EXTERNAL_STATUSES_MAX:
        raise InvalidInputError(
            f"{where}.statuses has {len(check.statuses)} entries, expected at most {EXTERNAL_STATUSES_MAX}"
        )
    for position, status in enumerate(check.statuses):
        if not 200 <= status <= 599:
            raise InvalidInputError(f"{where}.statuses[{position}] is {status}, expected 200 to 599")


def _check_unique(values: tuple[str, ...], where: str) -> None:
    for position, value in enumerate(values):
        if value in values[:position]:
            raise InvalidInputError(f"{where}: {value[:80]!r} is given twice")
