"""A view kept up to date change by change against one computed from nothing, by rules written out again."""

import json
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from discovery.core.model import (
    Change,
    Endpoint,
    EndpointKey,
    EndpointPort,
    ServiceKey,
    pack,
    unpack_endpoint,
    unpack_resource,
)
from discovery.core.tables import EMPTY_TABLES
from discovery.core.verdicts import verdict_key
from discovery.core.view import Admission, AdmittedSource, Gateway, Owner, Service
from discovery.core.views import ViewIndex
from tests.property.catalog_rows import ALL_KEYS, steps
from tests.unit.discovery.builders import (
    endpoint,
    gateway,
    put,
    put_export,
    put_grant,
    put_trust_domain,
    resource,
)
from tests.unit.discovery.builders import key as resource_key

STANDING = [
    resource(put(resource_key("Cluster", "alpha"), {"role": "primary", "trustDomain": "alpha.test"})),
    resource(put(resource_key("Cluster", "beta"), {"role": "primary", "trustDomain": "beta.test"})),
    resource(put_trust_domain("alpha.test")),
    resource(put_trust_domain("beta.test")),
    resource(put_export("beta", "shop", "*")),
    resource(put_grant("beta", "shop", "*")),
    resource(put_export("alpha", "shop", "*")),
    resource(put_grant("alpha", "shop", "*")),
    endpoint("alpha", "e1"),
    endpoint("beta", "e1"),
    gateway("beta"),
]


class Oracle:
    """All rows, read again for every question."""

    def __init__(self, viewer: str, tables: Mapping[tuple[str, bytes], bytes]) -> None:
        self.viewer = viewer
        configuration = [
            unpack_resource(value) for (table, _), value in tables.items() if table == "resources"
        ]
        self.specs = {
            row.key: {
                **json.loads(row.spec),
                "held": json.loads(row.status).get("addresses", []),
                "age": (row.created_ms, row.created_revision),
                "name": row.key.name,
            }
            for row in configuration
        }
        self.clusters = {key.name: spec for key, spec in self.specs.items() if key.kind == "Cluster"}
        # By the word of a mirror only its own cluster loses an address.
        self.controllers = {
            (spec["control"], spec["cluster"] if spec["role"] == "mirror" else "")
            for key, spec in self.specs.items()
            if key.kind == "Controller"
        }
        rows = [
            unpack_endpoint(value) for (table, _), value in sorted(tables.items()) if table == "endpoints"
        ]
        self.endpoints = [row for row in rows if self.is_served(row) and self.is_inside(row)]
        self.shares = {
            key.name: spec["sharePercent"] for key, spec in self.specs.items() if key.kind == "Drain"
        }
        self.domains = {key.name for key in self.specs if key.kind == "TrustDomain"}

    def is_served(self, row: Endpoint) -> bool:
        taken = {
            (f"{row.address}:{port.listen_port}", of) for port in row.ports for of in ("", row.key.cluster)
        }
        return taken.isdisjoint(self.controllers)

    def is_inside(self, row: Endpoint) -> bool:
        ranges = self.clusters.get(row.key.cluster, {}).get("ranges", [])
        return not ranges or any(ip_address(row.address) in ip_network(one) for one in ranges)

    def policies(self, kind: str, owner: str, key: ServiceKey) -> list[dict[str, Any]]:
        return [
            spec
            for name, spec in self.specs.items()
            if (name.kind, name.scope, name.namespace) == (kind, owner, key.namespace)
            and ("*" in spec["services"] or key.service in spec["services"])
        ]

    def exports(self, owner: str, key: ServiceKey) -> list[dict[str, Any]]:
        every = [
            {**spec, "services": ["*"]}
            for name, spec in self.specs.items()
            if (name.kind, name.scope) == ("ClusterExportPolicy", owner)
            and key.namespace not in spec.get("exceptNamespaces", ())
        ]
        return self.policies("ExportPolicy", owner, key) + every

    def takes(self, owner: str, key: ServiceKey) -> bool:
        found = [
            (
                spec["action"],
                all(
                    {"*", part} & set(spec[field])
                    for field, part in (
                        ("clusters", owner),
                        ("namespaces", key.namespace),
                        ("services", key.service),
                    )
                ),
            )
            for name, spec in self.specs.items()
            if (name.kind, name.scope) == ("ImportPolicy", self.viewer)
        ]
        wanted = [applies for action, applies in found if action == "Take"]
        return ("Refuse", True) not in found and (not wanted or any(wanted))

    def shown_to(self, owner: str, key: ServiceKey) -> set[str]:
        return {name for spec in self.exports(owner, key) for name in spec["consumers"]}

    def sources(self, owner: str, key: ServiceKey, domain: str) -> list[dict[str, list[str]]]:
        return [
            source
            for spec in self.policies("Grant", owner, key)
            for source in spec["sources"]
            if (not source.get("trustDomains") or domain in source["trustDomains"])
            and (
                not source.get("principals")
                or any(p.split("/")[2] == domain for p in source.get("principals", ()))
            )
        ]

    def sees(self, owner: str, key: ServiceKey) -> bool:
        if owner == self.viewer:
            return True
        ours, theirs = (self.clusters[name]["trustDomain"] for name in (self.viewer, owner))
        exported = bool({self.viewer, "*"} & self.shown_to(owner, key))
        granted = ours == theirs or bool(self.sources(owner, key, ours))
        return theirs in self.domains and exported and granted and self.takes(owner, key)

    def loss(self, owner: str, key: ServiceKey) -> str:
        verdict = self.specs.get(verdict_key(owner))
        if owner == self.viewer or verdict is None or verdict["state"] != "dead":
            return "keep"
        policies = self.policies("LossPolicy", owner, key)
        named = [spec for spec in policies if key.service in spec["services"]]
        choices = [spec["onLoss"] for spec in named or policies]
        return min(choices, key=("keep", "last-resort", "withdraw").index, default="keep")

    def service(self, key: ServiceKey) -> Service | None:
        found, name = self.real(key), key
        for _ in range(8):
            if found is not None:
                break
            alias = self.specs.get(
                resource_key("ServiceAlias", name.service, scope=self.viewer, namespace=name.namespace)
            )
            if alias is None:
                break
            name = ServiceKey(alias.get("namespace", name.namespace), alias["service"])
            found = self.real(name)
        return found if found is None or name == key else replace(found, key=key, stands_for=name)

    def real(self, key: ServiceKey) -> Service | None:
        if self.viewer not in self.clusters:
            return None
        theirs = [
            row for row in self.endpoints if row.key.service_key == key and row.key.cluster in self.clusters
        ]
        owners = [
            self.owner(name, [row for row in theirs if row.key.cluster == name])
            for name in sorted({row.key.cluster for row in theirs})
            if self.sees(name, key) and self.loss(name, key) != "withdraw"
        ]
        owners += [
            self.external(name.scope, key, spec)
            for name, spec in self.specs.items()
            if (name.kind, name.namespace, name.name) == ("ExternalService", *key)
            and name.scope in self.clusters
            and self.sees(name.scope, key)
            and self.loss(name.scope, key) != "withdraw"
        ]
        owners = [owner for owner in owners if owner.endpoints]
        if not owners:
            return None
        owners.sort(key=lambda owner: self.age(owner.cluster, key))
        first = self.speaker(owners[0].cluster, key)
        ports = self.ports([port for owner in owners for row in owner.endpoints for port in row.ports])
        owners.sort(key=lambda owner: self.rank(owner, key))
        return Service(
            key=key,
            ports=ports,
            owners=tuple(owners),
            type=first.get("type", "ClusterSetIP"),
            affinity=first.get("sessionAffinity", "None"),
        )

    def age(self, owner: str, key: ServiceKey) -> tuple[object, ...]:
        """The oldest policy by which others see the service; what is for oneself alone comes first."""
        shown = [
            spec["age"]
            for spec in self.exports(owner, key)
            if [name for name in spec["consumers"] if name != owner]
        ]
        return (1, min(shown), owner) if shown else (0, (), owner)

    def speaker(self, owner: str, key: ServiceKey) -> dict[str, Any]:
        found = self.exports(owner, key)
        by_name = [spec for spec in found if key.service in spec["services"]]
        of_namespace = [spec for spec in found if "exceptNamespaces" not in spec]
        nearest = by_name or of_namespace or found
        return min(nearest, key=lambda spec: (spec["age"], spec["name"]), default={})

    @staticmethod
    def ports(in_order: list[EndpointPort]) -> tuple[EndpointPort, ...]:
        """Of each number the first; of each name the first that is the first of its number."""
        found: list[EndpointPort] = []
        for port in in_order:
            if port.service_port in [other.service_port for other in found]:
                continue
            name = "" if port.name in [other.name for other in found] else port.name
            found.append(replace(port, name=name, listen_port=0))
        return tuple(sorted(found, key=lambda port: port.service_port))

    def external(self, name: str, key: ServiceKey, spec: dict[str, Any]) -> Owner:
        states = {one["address"]: one["state"] for one in spec["held"]}
        rows = [
            Endpoint(
                key=EndpointKey(*key, name, "ext-" + address.replace(".", "-")),
                address=address,
                ports=tuple(
                    EndpointPort(
                        name=port["name"],
                        service_port=port["port"],
                        listen_port=port.get("targetPort", port["port"]),
                        protocol=port.get("protocol", "http"),
                    )
                    for port in spec["ports"]
                ),
                identity="",
                ready=states.get(address) != "unhealthy",
            )
            for address in sorted(spec["addresses"])
        ]
        rows = [row for row in rows if self.is_served(row)]
        theirs = self.clusters[name]
        return Owner(
            cluster=name,
            trust_domain=theirs["trustDomain"],
            region=theirs.get("region", ""),
            zone=theirs.get("zone", ""),
            local=name == self.viewer,
            direct=True,
            identities=(),
            endpoints=tuple(rows),
            external=True,
            suspects=tuple(row.key.name for row in rows if states.get(row.address) == "degraded"),
        )

    def rank(self, owner: Owner, key: ServiceKey) -> tuple[bool, bool, bool, bool, bool, str, bool]:
        region, zone = (self.clusters[self.viewer].get(place, "") for place in ("region", "zone"))
        near = bool(region) and owner.region == region
        drained = owner.share_percent == 0
        return (
            self.loss(owner.cluster, key) == "last-resort",
            drained,
            not owner.local,
            not near,
            not (near and bool(zone) and owner.zone == zone),
            owner.cluster,
            owner.external,
        )

    def owner(self, name: str, endpoints: list[Endpoint]) -> Owner:
        spec, own = self.clusters[name], self.clusters[self.viewer]
        direct = name == self.viewer or own.get("network", "") == spec.get("network") != ""
        gateways = [
            Gateway(name=row.key.name, address=row.address, port=row.ports[0].listen_port, identity=row.identity, ready=row.ready)
            for row in self.endpoints
            if row.key[:3] == ("isthmus-system", "eastwest", name)
        ]  # fmt: skip
        return Owner(
            cluster=name,
            trust_domain=spec["trustDomain"],
            region=spec.get("region", ""),
            zone=spec.get("zone", ""),
            local=name == self.viewer,
            direct=direct,
            apart=not direct and bool(own.get("network")) and bool(spec.get("network")),
            identities=tuple(sorted({row.identity for row in endpoints})),
            endpoints=tuple(endpoints),
            gateways=() if direct else tuple(gateways),
            share_percent=self.shares.get(name, 100),
        )

    def admission(self, key: ServiceKey) -> Admission | None:
        if self.viewer not in self.clusters:
            return None
        own = self.clusters[self.viewer]["trustDomain"]
        shown_to = self.shown_to(self.viewer, key)
        callers = {
            spec["trustDomain"]
            for name, spec in self.clusters.items()
            if name != self.viewer and {name, "*"} & shown_to
        }
        sources = {
            AdmittedSource(
                trust_domain=domain,
                namespaces=tuple(sorted(set(source.get("namespaces", ())))),
                principals=tuple(
                    sorted({p for p in source.get("principals", ()) if p.split("/")[2] == domain})
                ),
            )
            for domain in (callers & self.domains) - {own}
            for source in self.sources(self.viewer, key, domain)
        }
        return Admission(own_trust_domain=own, sources=tuple(sorted(sources)))

    def answers(self, key: ServiceKey) -> tuple[object, ...]:
        """Everything whose change must be told."""
        service = self.service(key)
        if service is None or not any(owner.local for owner in service.owners):
            return (service,)
        return (service, self.admission(key), self.shown_to(self.viewer, key) - {self.viewer})


@settings(max_examples=150)
@given(batches=st.lists(steps, min_size=3, max_size=16))
def test_a_view_kept_up_to_date_equals_one_computed_from_nothing(batches):
    views = {viewer: ViewIndex(viewer) for viewer in ("alpha", "beta", "delta")}
    state: dict[tuple[str, bytes], bytes] = {}
    tables = EMPTY_TABLES
    for revision, batch in enumerate([[(row, True) for row in STANDING], *batches], start=1):
        before = dict(state)
        changes = []
        for row, present in batch:
            table = "endpoints" if isinstance(row, Endpoint) else "resources"
            value = pack(row) if present else None
            changes.append(Change(table, row.key.encode(), value))
            if value is None:
                state.pop((table, row.key.encode()), None)
            else:
                state[table, row.key.encode()] = value
        tables = tables.with_changes(changes, revision)
        for viewer, view in views.items():
            told = view.update(tables, changes)
            check(view, told, Oracle(viewer, before), Oracle(viewer, state))
            fresh = ViewIndex(viewer)
            assert fresh.reset(tables) == set(view.services())
            assert list(fresh.services()) == list(view.services())


def check(view: ViewIndex, told: frozenset[ServiceKey], before: Oracle, after: Oracle) -> None:
    assert told == {key for key in ALL_KEYS if before.answers(key) != after.answers(key)}
    assert list(view.services()) == [key for key in ALL_KEYS if after.service(key) is not None]
    for key in ALL_KEYS:
        assert view.service(key) == after.service(key)
        assert view.admission(key) == after.admission(key)
        assert view.consumers(key) == after.shown_to(after.viewer, key) - {after.viewer}
    assert view.trust_domains().keys() == after.domains
    assert not view.quarantined
