"""Tokens of workload groups: identity and template come from the group, and from it as it is."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from certs.core.token import JoinToken, parse_token, token_hash
from certs.runtime.identity import LeafIdentity
from discovery.core.commands import Delete
from discovery.core.model import ResourceKey
from discovery.core.specs import GroupPort, JoinTokenStatus, WorkloadGroupSpec
from federation.api.admission import Admission, agent_key
from federation.api.messages import EnrollReply, EnrollRequest
from federation.api.proposer import Proposer
from federation.api.tokens import TokenReply, TokenRequest, create_token, group_key, token_name
from federation.kernel.errors import (
    AlreadyExistsError,
    InvalidInputError,
    IsthmusError,
    NotFoundError,
    PreconditionError,
)
from federation.kernel.versions import PROTOCOL_VERSION
from tests.support.pki import TestDomain
from tests.unit.api.logs import CatalogLog
from tests.unit.discovery.builders import founded, key, put

GROUP = group_key("alpha", "shop", "machines")
SPEC: dict[str, Any] = {
    "serviceAccount": "orders",
    "service": "orders",
    "ports": [{"name": "http", "port": 80}],
    "labels": {"version": "v1"},
}
REQUEST = {"purpose": "agent", "cluster": "alpha", "namespace": "shop", "workload_group": "machines"}


class Office:
    """Makes tokens and takes enrollments for alpha."""

    def __init__(self, folder: Path) -> None:
        self.log = founded()
        identity = "spiffe://alpha.test/isthmus/alpha/controller/alpha-1"
        controller = {
            "cluster": "alpha",
            "role": "member",
            "identity": identity,
            "api": "10.0.0.1:7445",
            "protocol": PROTOCOL_VERSION,
        }
        self.log.accept("alpha", put(key("Controller", "alpha-1"), controller), put(GROUP, SPEC))
        self._folder = folder
        self._proposer = Proposer(CatalogLog(self.log), cluster="alpha")
        self._admission = Admission(
            cluster="alpha",
            catalog=self.log.catalog,
            proposer=self._proposer,
            authority=TestDomain("alpha.test", folder / "pki").authority,
            voters=tuple,
            now_ms=lambda: self.log.catalog.now_ms,
        )

    def change(self, **fields: object) -> None:
        self.log.accept("alpha", put(GROUP, {**SPEC, **fields}))

    async def create(self, **changes: Any) -> TokenReply:
        return await create_token(
            TokenRequest(**{**REQUEST, **changes}),
            tables=self.log.catalog.tables,
            now_ms=self.log.catalog.now_ms,
            proposer=self._proposer,
            cluster="alpha",
            pin="0" * 64,
        )

    async def token(self, **changes: Any) -> JoinToken:
        return parse_token((await self.create(**changes)).token)

    async def enroll(self, token: JoinToken, *, key: str = "a", name: str = "vm1") -> EnrollReply:
        leaf = LeafIdentity.load(self._folder / key)
        return await self._admission.enroll(
            EnrollRequest(secret=token.secret, purpose="agent", id=name, csr=leaf.create_csr())
        )

    def spec_of(self, row: ResourceKey) -> dict[str, Any]:
        found = self.log.catalog.tables.resource(row)
        assert found is not None
        return msgspec.json.decode(found.spec, type=dict[str, Any])


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


async def test_the_service_account_of_a_token_is_its_groups(office: Office) -> None:
    reply = await office.create()
    spec = office.spec_of(key("JoinToken", reply.name))
    assert (spec["namespace"], spec["serviceAccount"], spec["workloadGroup"]) == (
        "shop",
        "orders",
        "machines",
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"workload_group": "other"}, NotFoundError, "workload group shop/other does not exist in cluster alpha: apply it first"),
        ({"namespace": "else"}, NotFoundError, "workload group else/machines does not exist"),
        ({"cluster": "delta"}, NotFoundError, "workload group shop/machines does not exist in cluster delta"),
        ({"namespace": ""}, InvalidInputError, "an agent token says who its workloads are"),
        ({"workload_group": "A"}, InvalidInputError, "workload_group: 'A' is not a name"),
        ({"service_account": "orders"}, InvalidInputError, "serviceAccount: 'orders' is given with workload group"),
        ({"purpose": "dns", "namespace": ""}, InvalidInputError, "workload group belong to agent tokens, not to dns"),
    ],
)  # fmt: skip
async def test_a_token_of_no_group_is_not_made(
    office: Office, changes: dict[str, str], error: type[IsthmusError], message: str
) -> None:
    before = office.log.catalog.revision
    with pytest.raises(error, match=message):
        await office.create(**changes)
    assert office.log.catalog.revision == before


async def test_an_enrollment_brings_the_groups_identity_and_template(office: Office) -> None:
    reply = await office.enroll(await office.token())
    assert (reply.namespace, reply.workload_group) == ("shop", "machines")
    assert reply.workload_identity == "spiffe://alpha.test/ns/shop/sa/orders"
    assert reply.template == WorkloadGroupSpec(
        service_account="orders",
        service="orders",
        ports=(GroupPort(name="http", port=80),),
        labels={"version": "v1"},
    )
    assert office.spec_of(agent_key("alpha", "agent", "vm1"))["workloadGroup"] == "machines"
    assert msgspec.json.decode(msgspec.json.encode(reply), type=EnrollReply) == reply


async def test_a_machine_gets_the_template_of_its_enrollment_not_of_its_token(office: Office) -> None:
    token = await office.token()
    office.change(weight=7)
    reply = await office.enroll(token)
    assert reply.template is not None
    assert reply.template.weight == 7


async def test_a_group_that_changed_its_service_account_lets_nobody_in_by_an_old_token(
    office: Office,
) -> None:
    token = await office.token()
    office.change(serviceAccount="admin")
    with pytest.raises(PreconditionError, match=r"for service account orders, .* has admin by now"):
        await office.enroll(token)
    office.change()
    assert (await office.enroll(token)).workload_identity.endswith("/sa/orders")


async def test_a_group_that_is_gone_lets_nobody_in_and_costs_no_token(office: Office) -> None:
    token = await office.token()
    office.log.accept("alpha", Delete(key=GROUP))
    with pytest.raises(PreconditionError, match="workload group shop/machines of the join token no longer"):
        await office.enroll(token)
    row = office.log.catalog.tables.resource(key("JoinToken", token_name_of(token)))
    assert row is not None
    assert msgspec.json.decode(row.status, type=JoinTokenStatus).claimed_by == ""


def token_name_of(token: JoinToken) -> str:

    return token_name(token_hash(token.secret))


async def test_a_token_without_a_group_brings_no_template(office: Office) -> None:
    reply = await office.enroll(await office.token(workload_group="", service_account="orders"))
    assert (reply.workload_group, reply.template) == ("", None)


async def test_a_machine_may_come_back_by_another_group_of_its_account_but_of_no_other(
    office: Office,
) -> None:
    await office.enroll(await office.token())
    await office.enroll(await office.token(workload_group="", service_account="orders"), key="b")
    other = await office.token(workload_group="", service_account="payments")
    with pytest.raises(AlreadyExistsError, match="enrolled for another namespace or service account"):
        await office.enroll(other, key="c")
