"""The documents say what is true of the code: paths, names, commands, options, keys, metrics."""

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import click
import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from consensus.core.contract import Counters, PeerStatus, Status
from discovery.core import specs
from discovery.core.catalog import Catalog
from discovery.core.kinds import KINDS
from discovery.runtime.dns_sockets import DnsCounters
from federation.agent import config as agent_config
from federation.agent.status import AgentStatus, EndpointStatus, LeafStatus, ProxyStatus, StatusCollector
from federation.api.audit import AuditTrail
from federation.app import config as app_config
from federation.app.dns import DnsCollector
from federation.app.liveness_metrics import LivenessCollector
from federation.app.metrics import ControllerCollector
from federation.app.mirror import MirrorCollector
from federation.app.traces import Tracer
from federation.cli.main import cli
from federation.kernel.configfile import Section
from federation.replication.follower import FollowerStatus

REPOSITORY = Path(__file__).parents[2]
REFERENCE = REPOSITORY / "docs" / "reference"
DOCUMENTS = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted(REPOSITORY.glob("*/README.md")),
]

QUOTED = re.compile(r"`([^`\n]+)`")
# A path from the root of the repository, with the name of something that its file defines or without.
PLACE = re.compile(
    r"((?:federation|consensus|discovery|gateways|certs|chaos|deploy|tests|docs)/[\w./-]*|[\w-]+\.(?:toml|md))"
    r"(?::([A-Za-z_][\w.]*))?"
)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def places(document: str) -> list[tuple[str, str]]:
    """Return (path, name or "") of everything quoted that looks like a place in the repository."""
    text = re.sub(r"^```.*?^```$", "", (REPOSITORY / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [
        (match[1], match[2] or "") for quoted in QUOTED.findall(text) if (match := PLACE.fullmatch(quoted))
    ]


def defined(path: Path) -> set[str]:
    """Return the names that a module defines: functions, classes, `Class.method`, assigned names."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
            methods = (one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
            names |= {f"{node.name}.{method.name}" for method in methods}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def rows(document: Path, level: str = "### ") -> dict[str, list[list[str]]]:
    """Return the table under each heading of a reference as lists of cells, without its head."""
    found: dict[str, list[list[str]]] = {}
    for part in re.split(rf"^{level}", document.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        lines = [line for line in body.split("\n## ")[0].splitlines() if line.startswith("|")]
        found[heading] = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return found


@pytest.mark.parametrize(
    ("document", "at_least"),
    [
        ("ARCHITECTURE.md", 100),
        ("README.md", 8),
        ("docs/reference/consensus.md", 40),
        ("docs/reference/federation.md", 100),
    ],
)
def test_a_place_that_is_named_exists(document: str, at_least: int) -> None:
    named = places(document)

    assert len(named) >= at_least
    assert [path for path, _ in named if not (REPOSITORY / path).exists()] == []
    assert [f"{path}:{name}" for path, name in named if name and name not in defined(REPOSITORY / path)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_link_leads_somewhere(document: Path) -> None:
    targets = [target for target in LINK.findall(document.read_text()) if "://" not in target]

    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize(
    "invariant", ["F1", "F2", "F3", "F4", "C1", "C2", "C3", "D1", "G1", "G2", "S1", "S2", "S3", "S4"]
)
def test_an_invariant_names_what_enforces_it_and_the_test_that_holds_it(invariant: str) -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    (part,) = re.findall(rf"^\*\*{invariant}\*\* .*?(?=^\*\*|^## )", text, flags=re.MULTILINE | re.DOTALL)
    enforced, held = (
        re.search(rf"^- {word} by (.*?)(?=^-|\Z)", part, re.MULTILINE | re.DOTALL)
        for word in ("enforced", "held")
    )

    assert enforced is not None
    assert QUOTED.search(enforced[1])
    assert held is not None
    assert "`tests/" in held[1]


def commands(command: click.Command, path: str = "isthmus") -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, with its path."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, f"{path} {name}")
    else:
        yield path, command


def usage(path: str, command: click.Command) -> str:
    """Return the heading that a command must have."""
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    named = [one.human_readable_name if one.required else f"[{one.human_readable_name}]" for one in arguments]
    return " ".join((path, *named))


def test_every_command_and_option_is_documented_and_no_other() -> None:
    expected = {
        usage(path, command): sorted(
            option for one in command.params if isinstance(one, click.Option) for option in one.opts
        )
        for path, command in commands(cli)
    }

    documented = {
        heading: sorted(quoted.split()[0] for row in table for quoted in QUOTED.findall(row[0]))
        for heading, table in rows(REFERENCE / "cli.md").items()
    }
    assert documented == expected


def test_every_kind_is_documented_with_who_writes_and_who_deletes_it() -> None:
    part = (REFERENCE / "cli.md").read_text().partition("\n## Resources\n")[2].partition("\n### ")[0]
    table, _, others = part.partition("\nThe others are")
    kinds = KINDS.values()
    assert set(QUOTED.findall(table)) == {kind.name for kind in kinds if kind.writable}
    others = others.partition("\nA kind may")[0]
    told = {name for name in QUOTED.findall(others) if name in KINDS}
    assert told == {kind.name for kind in kinds if not kind.writable}
    starred = set(re.findall(r"`(\w+)`\*", others))
    assert starred == {kind.name for kind in kinds if kind.deletable and not kind.writable}


SECTIONS = [
    app_config.ControllerConfig,
    app_config.ClusterSection,
    app_config.ListenSection,
    app_config.RaftSection,
    app_config.AgentsSection,
    app_config.MirrorConfig,
    app_config.MirrorListenSection,
    app_config.JoinConfig,
    app_config.DnsConfig,
    agent_config.AgentConfig,
    agent_config.WorkloadSection,
    agent_config.ProbeSection,
    agent_config.GroupSection,
    agent_config.OutboundTcpSection,
    agent_config.CaptureSection,
    agent_config.GatewayConfig,
]


def described(field: msgspec.inspect.Field) -> tuple[str, str, str]:
    """Return a key, its type and its default as the reference has to write them."""
    match field.type:
        case msgspec.inspect.IntType():
            kind = "integer"
        case msgspec.inspect.BoolType():
            kind = "boolean"
        case msgspec.inspect.VarTupleType(item_type=msgspec.inspect.IntType()):
            kind = "list of integers"
        case msgspec.inspect.StrType() | msgspec.inspect.LiteralType():
            kind = "string"
        case (
            msgspec.inspect.StructType()
            | msgspec.inspect.DictType()
            | msgspec.inspect.UnionType(
                types=(msgspec.inspect.NoneType(), msgspec.inspect.StructType())
                | (msgspec.inspect.StructType(), msgspec.inspect.NoneType())
            )
        ):
            kind = "table"
        case msgspec.inspect.UnionType(types=(msgspec.inspect.StrType(), msgspec.inspect.DictType())):
            kind = "string or table"
        case msgspec.inspect.VarTupleType(item_type=msgspec.inspect.StructType()):
            kind = "list of tables"
        case msgspec.inspect.VarTupleType(item_type=msgspec.inspect.StrType()):
            kind = "list of strings"
        case other:
            raise AssertionError(f"{field.name}: no word for {other}")
    if field.required or kind == "table":
        return field.encode_name, kind, ""
    default = [] if field.default == () else field.default
    return field.encode_name, kind, f"`{msgspec.json.encode(default).decode()}`"


def test_every_section_of_a_configuration_is_documented() -> None:
    assert list(rows(REFERENCE / "config.md").keys() ^ {section.__name__ for section in SECTIONS}) == []


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_of_a_configuration_is_documented_with_its_type_and_default(section: type[Section]) -> None:
    info = msgspec.inspect.type_info(section)
    assert isinstance(info, msgspec.inspect.StructType)

    documented = [
        (row[0].strip("`"), row[1], row[2]) for row in rows(REFERENCE / "config.md")[section.__name__]
    ]
    assert documented == [described(field) for field in info.fields]
    assert all(row[3] for row in rows(REFERENCE / "config.md")[section.__name__])


EXTERNAL = [
    specs.ExternalServiceSpec,
    specs.ExternalPort,
    specs.ExternalCheck,
    specs.ExternalObservationSpec,
]


@pytest.mark.parametrize(
    ("document", "spec"),
    [
        *(
            ("workloadgroup.md", spec)
            for spec in (specs.WorkloadGroupSpec, specs.GroupPort, specs.GroupProbe)
        ),
        *(("liveness.md", spec) for spec in (specs.ObservationSpec, specs.VerdictSpec, specs.LossPolicySpec)),
        *(("external-services.md", spec) for spec in EXTERNAL),
    ],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_every_field_of_a_spec_is_documented(document: str, spec: type[specs.Spec]) -> None:
    info = msgspec.inspect.type_info(spec)
    assert isinstance(info, msgspec.inspect.StructType)

    table = rows(REFERENCE / document)[spec.__name__]
    assert [(row[0].strip("`"), row[1], row[2]) for row in table] == [described(one) for one in info.fields]
    assert all(row[3] for row in table)


@pytest.mark.parametrize("spec", [specs.QuotaSpec, specs.NamespaceQuota], ids=lambda spec: spec.__name__)
def test_every_field_of_a_quota_is_documented(spec: type[specs.Spec]) -> None:
    info = msgspec.inspect.type_info(spec)
    assert isinstance(info, msgspec.inspect.StructType)

    table = rows(REFERENCE / "quota.md")[spec.__name__]
    assert [(row[0].strip("`"), row[1], row[2]) for row in table] == [described(one) for one in info.fields]


SHARING = [
    specs.ExportPolicySpec,
    specs.ClusterExportPolicySpec,
    specs.GrantSpec,
    specs.GrantSource,
    specs.ImportPolicySpec,
    specs.ServiceAliasSpec,
]


@pytest.mark.parametrize("spec", SHARING, ids=lambda spec: spec.__name__)
def test_every_field_of_what_clusters_share_is_documented(spec: type[specs.Spec]) -> None:
    info = msgspec.inspect.type_info(spec)
    assert isinstance(info, msgspec.inspect.StructType)

    table = rows(REFERENCE / "sharing.md")[spec.__name__]
    assert [(row[0].strip("`"), row[1], row[2]) for row in table] == [described(one) for one in info.fields]
    assert all(row[3] for row in table)


def exposed(collector: Collector) -> dict[str, str]:
    """Return what a collector exposes: names, as Prometheus sees them, to types."""
    registry = CollectorRegistry()
    registry.register(collector)
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", generate_latest(registry).decode(), re.MULTILINE))


def controller_collector() -> Collector:
    status = Status(
        id="alpha",
        role="leader",
        term=1,
        leader="alpha",
        commit_index=1,
        applied_index=1,
        members=("alpha",),
        connected=(),
        journal_bytes=1,
        snapshot_index=0,
        last_leader_contact_ms_ago=0,
        peers=(PeerStatus(id="beta", is_voter=True, match_index=1, last_contact_ms_ago=0),),
    )
    return ControllerCollector(
        SimpleNamespace(
            engine=SimpleNamespace(status=lambda: status, counters=Counters),
            catalog=Catalog(),
            feed=SimpleNamespace(subscribers=0),
            xds=SimpleNamespace(status=tuple),
            traces=SimpleNamespace(tracer=Tracer(clock=lambda: 0.0, unix_ms=lambda: 0)),
            registries={},
            audit=AuditTrail(),
            snapshot_unix_ms=lambda: 0,
            credentials=SimpleNamespace(leaf=SimpleNamespace(not_after=datetime.now(UTC))),
        )
    )


def liveness_collector() -> Collector:
    observer = SimpleNamespace(minds={}, suspended=(False, False))
    checker = SimpleNamespace(opinions={})
    return LivenessCollector(Catalog(), observer, checker)  # type: ignore[arg-type]  # the parts that it reads


def agent_collector() -> Collector:
    status = AgentStatus(
        purpose="agent",
        id="a1",
        cluster="alpha",
        identity="spiffe://alpha.example/isthmus/alpha/agent/a1",
        incarnation=1,
        leaving=False,
        missing=(),
        controllers=(),
        endpoints=(
            EndpointStatus(endpoint="shop/orders/o1", address="10.0.0.1:1", ready=True, level="local"),
        ),
        leaves=(LeafStatus(identity="spiffe://alpha.example/a", expires=datetime.now(UTC), valid=True),),
        proxy=ProxyStatus(state="ready", ready=True, age_s=1.0),
    )
    return StatusCollector(lambda: status)


def mirror_collector() -> Collector:
    status = FollowerStatus(
        complete=True, source="c1", local=True, revision=1, newest_revision=1, age_ms=1, last_error=""
    )
    mirror = SimpleNamespace(
        follower=SimpleNamespace(status=status),
        feed=SimpleNamespace(subscribers=0),
        xds=SimpleNamespace(status=tuple),
        served=SimpleNamespace(registries={}),
        leaf=SimpleNamespace(not_after=datetime.now(UTC)),
    )
    return MirrorCollector(mirror)  # type: ignore[arg-type]  # the parts that it reads


def dns_collector() -> Collector:
    counters = DnsCounters(
        udp_replies=(1,),
        tcp_replies=(0,),
        dropped=0,
        tcp_connections_open=0,
        tcp_connections_accepted=0,
        tcp_connections_evicted=0,
    )
    status = FollowerStatus(
        complete=True, source="c1", local=True, revision=1, newest_revision=1, age_ms=1, last_error=""
    )
    process = SimpleNamespace(
        server=SimpleNamespace(counters=lambda: counters),
        follower=SimpleNamespace(status=status),
        keeper=SimpleNamespace(leaf=SimpleNamespace(not_after=datetime.now(UTC))),
    )
    return DnsCollector(process)  # type: ignore[arg-type]  # the parts that it reads


@pytest.mark.parametrize(
    ("heading", "collector"),
    [
        pytest.param("Controller", controller_collector, id="controller"),
        pytest.param("Liveness", liveness_collector, id="liveness"),
        pytest.param("Agent and gateway", agent_collector, id="agent"),
        pytest.param("DNS", dns_collector, id="dns"),
    ],
)
def test_every_metric_is_documented_with_its_type(heading: str, collector: type[Collector]) -> None:
    documented = {row[0].strip("`"): row[1] for row in rows(REFERENCE / "metrics.md", "## ")[heading]}

    assert documented == exposed(collector())


@pytest.mark.parametrize(
    "page", sorted((REPOSITORY / "docs" / "how-to").glob("*.md")), ids=lambda page: page.stem
)
def test_a_page_writes_secrets_to_files_of_their_users_alone(page: Path) -> None:
    lines = page.read_text().splitlines()
    open_to_all = r"isthmus token create .*>|head -c \d+ /dev/urandom .*>"
    assert [line for line in lines if re.match(open_to_all, line)] == []
    for number, line in enumerate(lines):
        if found := re.match(r"runuser -u (\S+) -- .*--token-file (\S+)", line):
            block = max(start for start in range(number) if lines[start] == "```sh")
            assert f"chown {found[1]} {found[2]}" in lines[block:number], f"root's file: {line}"
