"""What must hold of a `spec` beyond its types: names, ranges of numbers, what goes together."""

import ipaddress

from discovery.core.external_spec import check_external_observation, check_external_service
from discovery.core.specs import (
    DRAIN_EVERY_MS_MAX,
    DRAIN_FAILING_MAX,
    DRAIN_TEXT_CHARS_MAX,
    GROUP_LABELS_BYTES_MAX,
    GROUP_LABELS_MAX,
    GROUP_PORTS_MAX,
    GROUP_PROBE_MS_MIN,
    QUOTA_MAX,
    QUOTA_RESOURCES,
    SERVICE_TEXT_CHARS_MAX,
    TRAFFIC_COUNT_MAX,
    AnySpec,
    ClusterExportPolicySpec,
    ClusterSpec,
    DrainReportSpec,
    DrainSpec,
    ExportPolicySpec,
    ExternalObservationSpec,
    ExternalServiceSpec,
    GrantSpec,
    GroupProbe,
    ImportPolicySpec,
    LossPolicySpec,
    NamespaceQuota,
    ObservationSpec,
    QuotaSpec,
    ServiceAliasSpec,
    ServiceTraffic,
    WorkloadGroupSpec,
)
from federation.kernel.errors import InvalidInputError
from federation.kernel.limits import ENDPOINTS_PER_CLUSTER_MAX
from federation.kernel.names import check_label, check_name
from federation.kernel.units import duration_ms


def check_spec(spec: AnySpec, where: str) -> None:
    """Raise `InvalidInputError` naming the field, the value and what was expected; `where` says which object it was."""
    match spec:
        case ClusterSpec():
            _check_cluster(spec, where)
        case DrainSpec():
            _check_drain(spec, f"{where}: spec")
        case DrainReportSpec():
            _check_drain_report(spec, f"{where}: spec")
        case ExportPolicySpec():
            _check_names(spec.services, f"{where}: spec.services")
            _check_names(spec.consumers, f"{where}: spec.consumers")
        case ClusterExportPolicySpec():
            _check_names(spec.consumers, f"{where}: spec.consumers")
            for position, name in enumerate(spec.except_namespaces):
                check_label(name, f"{where}: spec.exceptNamespaces[{position}]")
        case ImportPolicySpec():
            _check_names(spec.clusters, f"{where}: spec.clusters")
            _check_names(spec.namespaces, f"{where}: spec.namespaces")
            _check_names(spec.services, f"{where}: spec.services")
        case ServiceAliasSpec():
            check_label(spec.service, f"{where}: spec.service")
            if spec.namespace:
                check_label(spec.namespace, f"{where}: spec.namespace")
        case GrantSpec():
            _check_names(spec.services, f"{where}: spec.services")
            if not spec.sources:
                raise InvalidInputError(f"{where}: spec.sources is empty: expected at least one source")
        case ObservationSpec():
            if not (spec.control_lost or spec.data_lost or spec.member_lost):
                raise InvalidInputError(f"{where}: spec says that nothing is lost: delete the row instead")
        case LossPolicySpec():
            _check_names(spec.services, f"{where}: spec.services")
        case ExternalServiceSpec():
            check_external_service(spec, f"{where}: spec")
        case ExternalObservationSpec():
            check_external_observation(spec, f"{where}: spec")
        case WorkloadGroupSpec():
            _check_group(spec, f"{where}: spec")
        case QuotaSpec():
            _check_quota(spec, f"{where}: spec")
        case _:
            pass


def _check_drain(spec: DrainSpec, where: str) -> None:
    for field, percent, least in (
        ("sharePercent", spec.share_percent, 0),
        ("stepPercent", spec.step_percent, 1),
        ("capacityPercentMin", spec.capacity_percent_min, 0),
    ):
        if not least <= percent <= 100:
            raise InvalidInputError(f"{where}.{field} is {percent}, expected {least} to 100")
    if not 0 <= spec.every_ms <= DRAIN_EVERY_MS_MAX:
        raise InvalidInputError(
            f"{where}.everyMs is {spec.every_ms}, expected 0 to {DRAIN_EVERY_MS_MAX}, a day"
        )
    if not 0 <= spec.errors_per_million_max <= 1_000_000:
        raise InvalidInputError(
            f"{where}.errorsPerMillionMax is {spec.errors_per_million_max}, expected 0 to 1000000"
        )
    if len(spec.rolled_back) > DRAIN_TEXT_CHARS_MAX:
        raise InvalidInputError(
            f"{where}.rolledBack has {len(spec.rolled_back)} characters, at most {DRAIN_TEXT_CHARS_MAX} are allowed"
        )


def _check_drain_report(spec: DrainReportSpec, where: str) -> None:
    if not 1 <= len(spec.failing) <= DRAIN_FAILING_MAX:
        raise InvalidInputError(
            f"{where}.failing has {len(spec.failing)} entries, expected 1 to {DRAIN_FAILING_MAX}"
        )
    for position, one in enumerate(spec.failing):
        check_traffic(one, f"{where}.failing[{position}]")


def check_traffic(one: ServiceTraffic, where: str) -> None:
    """Raise `InvalidInputError` for what no proxy can have counted; `where` names it for the message."""
    if (
        len(one.service) > SERVICE_TEXT_CHARS_MAX
        or not one.service.isascii()
        or not one.service.isprintable()
    ):
        raise InvalidInputError(
            f"{where}.service is {one.service[:SERVICE_TEXT_CHARS_MAX]!r}, expected NAMESPACE/NAME:PORT"
        )
    for field, errors, requests in (
        ("errors", one.errors, one.requests),
        ("errorsBefore", one.errors_before, one.requests_before),
    ):
        if not 0 <= errors <= requests <= TRAFFIC_COUNT_MAX:
            raise InvalidInputError(
                f"{where}.{field} is {errors} of {requests} requests, expected 0 to as many, at most {TRAFFIC_COUNT_MAX}"
            )


def _check_cluster(spec: ClusterSpec, where: str) -> None:
    check_name(spec.trust_domain, f"{where}: spec.trustDomain")
    if (spec.role == "remote") != bool(spec.home):
        raise InvalidInputError(
            f"{where}: spec.home is {spec.home!r}: a remote cluster names its home, others have none"
        )
    if spec.rehoming is not None:
        check_name(spec.rehoming.trust_domain, f"{where}: spec.rehoming.trustDomain")
    for position, text in enumerate(spec.ranges):
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise InvalidInputError(
                f"{where}: spec.ranges[{position}]: {text!r} is not a network such as 10.0.0.0/8: {error}"
            ) from error


def _check_quota(spec: QuotaSpec, where: str) -> None:
    for namespace in spec.namespaces:
        check_label(namespace, f"{where}.namespaces")
    parts: list[tuple[str, QuotaSpec | NamespaceQuota]] = [("", spec), (".namespace", spec.namespace)]
    parts += [(f".namespaces.{name}", limits) for name, limits in spec.namespaces.items()]
    for part, limits in parts:
        for field, value, most in (
            ("endpoints", limits.endpoints, ENDPOINTS_PER_CLUSTER_MAX),
            ("services", limits.services, ENDPOINTS_PER_CLUSTER_MAX),
            ("resources", limits.resources, QUOTA_RESOURCES),
            ("bytes", limits.bytes, QUOTA_MAX),
        ):
            if not 0 <= value <= most:
                raise InvalidInputError(f"{where}{part}.{field} is {value}, expected 0 to {most}")
        _check_rate(f"{where}{part}.changesPerSecond", limits.changes_per_second)
        _check_rate(f"{where}{part}.changesBurst", limits.changes_burst)
    _check_rate(f"{where}.writesPerSecond", spec.writes_per_second)
    _check_rate(f"{where}.writesBurst", spec.writes_burst)


def _check_rate(where: str, value: int) -> None:
    if not 1 <= value <= QUOTA_MAX:
        raise InvalidInputError(f"{where} is {value}, expected 1 to {QUOTA_MAX}")


def _check_names(names: tuple[str, ...], where: str) -> None:
    if not names:
        raise InvalidInputError(f'{where} is empty: expected names, or "*" for all')
    for position, name in enumerate(names):
        if name != "*":
            check_label(name, f"{where}[{position}]")


def _check_group(spec: WorkloadGroupSpec, where: str) -> None:
    check_label(spec.service_account, f"{where}.serviceAccount")
    check_label(spec.service, f"{where}.service")
    if not 1 <= len(spec.ports) <= GROUP_PORTS_MAX:
        raise InvalidInputError(
            f"{where}.ports has {len(spec.ports)} entries, expected 1 to {GROUP_PORTS_MAX}"
        )
    for position, port in enumerate(spec.ports):
        check_label(port.name, f"{where}.ports[{position}].name")
        if not 1 <= port.port <= 65_535:
            raise InvalidInputError(
                f"{where}.ports[{position}].port is {port.port}, expected a port from 1 to 65535"
            )
    for field, values in (
        ("name", [port.name for port in spec.ports]),
        ("port", [port.port for port in spec.ports]),
    ):
        for position, value in enumerate(values):
            if value in values[:position]:
                raise InvalidInputError(f"{where}.ports[{position}].{field}: {value!r} is given twice")
    _check_group_probe(spec.probe, f"{where}.probe")
    _check_group_labels(spec.labels, f"{where}.labels")
    if not 1 <= spec.weight <= 1_000:
        raise InvalidInputError(f"{where}.weight is {spec.weight}, expected 1 to 1000")


def _check_group_probe(probe: GroupProbe, where: str) -> None:
    for field, text in (("interval", probe.interval), ("timeout", probe.timeout)):
        try:
            length_ms = duration_ms(text)
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}.{field}: {error.message}") from error
        if length_ms < GROUP_PROBE_MS_MIN:
            raise InvalidInputError(f"{where}.{field}: {text!r} is shorter than {GROUP_PROBE_MS_MIN}ms")
    if not probe.path.startswith("/"):
        raise InvalidInputError(f"{where}.path: {probe.path[:80]!r} does not start with a slash")
    for field, count in (("failures", probe.failures), ("successes", probe.successes)):
        if count < 1:
            raise InvalidInputError(f"{where}.{field} is {count}, expected at least 1")


def _check_group_labels(labels: dict[str, str], where: str) -> None:
    if len(labels) > GROUP_LABELS_MAX:
        raise InvalidInputError(f"{where} has {len(labels)} entries, at most {GROUP_LABELS_MAX} are allowed")
    for name, value in labels.items():
        if not name or not name.isprintable() or not value.isprintable() or len(value) > 63:
            raise InvalidInputError(
                f"{where}[{name[:40]!r}]: expected a name, and a value of at most 63 printable characters"
            )
    size = sum(len(name.encode()) + len(value.encode()) for name, value in labels.items())
    if size > GROUP_LABELS_BYTES_MAX:
        raise InvalidInputError(f"{where} have {size} bytes, at most {GROUP_LABELS_BYTES_MAX} are allowed")
