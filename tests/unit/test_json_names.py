"""What users see as JSON has camelCase names, as everywhere in Kubernetes: answers of the API, `-o json`, reports.

Not what only our own processes tell each other: enrollment, joining, the streams of agents and followers.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from chaos.report import Report
from discovery.core.join_forecast import Forecast
from discovery.core.kinds import KINDS
from discovery.core.rehome_forecast import RehomeForecast
from discovery.core.specs import ExternalServiceStatus, JoinTokenStatus, Rehoming
from discovery.core.verdicts import VerdictStatus
from federation.agent.status import AgentStatus
from federation.api.accounts import History, Withheld
from federation.api.audit import AuditRecord
from federation.api.cluster_requests import DrainRequest, RehomeRequest, RemoveRequest
from federation.api.rehomings import Progress
from federation.api.removals import Removal
from federation.api.tokens import TokenReply, TokenRequest
from federation.api.tracing import WriteTrace
from federation.api.understanding import WhatIf
from federation.app.backup_file import Manifest
from federation.app.restoring import Restored
from gateways.core.explained import Explanation

REPOSITORY = Path(__file__).parents[2]
SEEN = [
    *(kind.spec for kind in KINDS.values()),
    AgentStatus,
    AuditRecord,
    DrainRequest,
    Explanation,
    ExternalServiceStatus,
    Forecast,
    History,
    JoinTokenStatus,
    Manifest,
    Progress,
    RehomeForecast,
    RehomeRequest,
    Rehoming,
    Removal,
    RemoveRequest,
    Report,
    Restored,
    TokenReply,
    TokenRequest,
    VerdictStatus,
    WhatIf,
    Withheld,
    WriteTrace,
]
CAMEL = re.compile(r"[a-z][a-zA-Z0-9]*")
SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")
# Where answers are put together from dictionaries, not only from the types above.
BY_HAND = [
    path.relative_to(REPOSITORY).as_posix()
    for folder in ("federation/api", "federation/app", "federation/agent", "federation/cli")
    for path in sorted((REPOSITORY / folder).glob("*.py"))
    if path.name != "main.py"  # What it has is click's settings.
]


def fields(found: msgspec.inspect.Type, seen: set[type]) -> Iterator[tuple[str, str]]:
    """Yield every struct within a type with the name of each of its fields in JSON."""
    match found:
        case msgspec.inspect.StructType() if found.cls not in seen:
            seen.add(found.cls)
            for field in found.fields:
                yield found.cls.__name__, field.encode_name
                yield from fields(field.type, seen)
        case msgspec.inspect.UnionType(types=types):
            for one in types:
                yield from fields(one, seen)
        case msgspec.inspect.CollectionType(item_type=item):
            yield from fields(item, seen)
        case msgspec.inspect.VarTupleType(item_type=item):
            yield from fields(item, seen)
        case msgspec.inspect.TupleType(item_types=items):
            for one in items:
                yield from fields(one, seen)
        case msgspec.inspect.DictType(value_type=value):
            yield from fields(value, seen)
        case _:
            return


def keys(tree: ast.AST) -> Iterator[str]:
    """Yield the keys of all dictionaries that are written down."""
    for one in ast.walk(tree):
        if isinstance(one, ast.Dict):
            for key in one.keys:
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value


@pytest.mark.parametrize("answer", SEEN, ids=lambda answer: answer.__name__)
def test_every_field_that_users_see_is_in_camel_case(answer: type) -> None:
    found = list(fields(msgspec.inspect.type_info(answer), set()))
    assert found
    assert [f"{name}.{field}" for name, field in found if CAMEL.fullmatch(field) is None] == []


@pytest.mark.parametrize("module", BY_HAND)
def test_no_answer_that_is_put_together_by_hand_has_other_names(module: str) -> None:
    assert [key for key in keys(ast.parse((REPOSITORY / module).read_text())) if SNAKE.fullmatch(key)] == []


def test_the_walk_finds_a_name_wherever_it_is() -> None:
    class Inner(msgspec.Struct):
        snake_case: int

    class Outer(msgspec.Struct):
        one: dict[str, tuple[Inner | None, ...]]

    assert list(fields(msgspec.inspect.type_info(Outer), set())) == [
        ("Outer", "one"),
        ("Inner", "snake_case"),
    ]
    assert list(keys(ast.parse("f({'a_b': [{'c_d': 1}]})"))) == ["a_b", "c_d"]
