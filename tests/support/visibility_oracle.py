"""Who may see what, and who may call what: read straight from the rows, slowly, one rule after another.

It shares no code with what it judges. The rules are those of docs/reference/sharing.md.
"""

import json
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from discovery.core.model import Endpoint, Resource

SYSTEM = {"isthmus-system", "kube-system", "kube-public", "kube-node-lease"}


class Name(NamedTuple):
    """A service by name."""

    namespace: str
    service: str


class VisibilityOracle:
    """All rows of a catalog, read again for every question."""

    def __init__(self, rows: Iterable[Resource | Endpoint]) -> None:
        newest = {row.key: row for row in rows}
        self.resources = [
            (row.key, json.loads(row.spec), (row.created_ms, row.created_revision))
            for row in newest.values()
            if isinstance(row, Resource)
        ]
        self.endpoints = [row for row in newest.values() if isinstance(row, Endpoint) and self.is_served(row)]

    # -- what is written down ----------------------------------------------------------------------

    def of_kind(self, kind: str, scope: str = "", namespace: str = "") -> list[dict[str, Any]]:
        """The specs of a kind, each with its name and age."""
        return [
            {**spec, "_name": key.name, "_age": age}
            for key, spec, age in self.resources
            if (key.kind, key.scope, key.namespace) == (kind, scope, namespace)
        ]

    def clusters(self) -> dict[str, dict[str, Any]]:
        """The clusters that have joined."""
        return {spec["_name"]: spec for spec in self.of_kind("Cluster")}

    def trust_domain(self, cluster: str) -> str:
        """Of a cluster that has joined."""
        return str(self.clusters()[cluster]["trustDomain"])

    def federated(self, trust_domain: str) -> bool:
        """Whether its roots are known."""
        return trust_domain in {spec["_name"] for spec in self.of_kind("TrustDomain")}

    def is_served(self, row: Endpoint) -> bool:
        """Whether an endpoint lies where its cluster's may, by the ranges of now, and where no controller listens."""
        ranges = self.clusters().get(row.key.cluster, {}).get("ranges", [])
        inside = [one for one in ranges if ip_address(row.address) in ip_network(one)]
        taken = any(
            self.is_a_controllers(row.address, port.listen_port, row.key.cluster) for port in row.ports
        )
        return bool(inside or not ranges) and not taken

    def is_a_controllers(self, address: str, port: int, cluster: str) -> bool:
        """Whether a member of any cluster, or a mirror of this one, listens there."""
        return any(
            spec.get("control") == f"{address}:{port}"
            and (spec["role"] != "mirror" or spec["cluster"] == cluster)
            for spec in self.of_kind("Controller")
        )

    # -- the rules ---------------------------------------------------------------------------------

    def exporting(self, owner: str, name: Name) -> list[dict[str, Any]]:
        """The policies of the owner that are about a service."""
        found = [
            spec
            for spec in self.of_kind("ExportPolicy", owner, name.namespace)
            if "*" in spec["services"] or name.service in spec["services"]
        ]
        if name.namespace not in SYSTEM:
            found += [
                {"consumers": ["*"], **spec}
                for spec in self.of_kind("ClusterExportPolicy", owner)
                if name.namespace not in spec.get("exceptNamespaces", [])
            ]
        return found

    def exported(self, owner: str, name: Name, to: str) -> bool:
        """Whether one of its owner's policies shows the service to a cluster."""
        return any(
            "*" in spec.get("consumers", ["*"]) or to in spec.get("consumers", ["*"])
            for spec in self.exporting(owner, name)
        )

    def imported(self, owner: str, name: Name, by: str) -> bool:
        """Whether the consumer takes it: nothing refuses it and, where it takes anything by name, that is it."""
        takes = []
        for spec in self.of_kind("ImportPolicy", by):
            applies = all(
                "*" in spec.get(field, ["*"]) or value in spec.get(field, ["*"])
                for field, value in (
                    ("clusters", owner),
                    ("namespaces", name.namespace),
                    ("services", name.service),
                )
            )
            if spec.get("action", "Take") == "Take":
                takes.append(applies)
            elif applies:
                return False
        return any(takes) if takes else True

    def granting(self, owner: str, name: Name) -> Iterator[dict[str, Any]]:
        """The sources that the owner's grants name for a service."""
        for spec in self.of_kind("Grant", owner, name.namespace):
            if "*" in spec["services"] or name.service in spec["services"]:
                yield from spec["sources"]

    def withdrawn(self, owner: str, name: Name) -> bool:
        """Whether the owner is dead and said that its service is then to be nowhere."""
        if not any(spec["_name"] == owner and spec["state"] == "dead" for spec in self.of_kind("Verdict")):
            return False
        policies = self.of_kind("LossPolicy", owner, name.namespace)
        by_name = [spec["onLoss"] for spec in policies if name.service in spec["services"]]
        general = [spec["onLoss"] for spec in policies if "*" in spec["services"]]
        said = by_name or general
        return bool(said) and set(said) == {"withdraw"}

    def sees(self, viewer: str, owner: str, name: Name) -> bool:
        """Whether a cluster may see another's part of a service."""
        if name.namespace == "isthmus-system" or not {viewer, owner} <= self.clusters().keys():
            return False
        if viewer == owner:
            return True
        ours, theirs = self.trust_domain(viewer), self.trust_domain(owner)
        granted = ours == theirs or any(self.may_match(source, ours) for source in self.granting(owner, name))
        return (
            self.federated(theirs)
            and self.exported(owner, name, viewer)
            and granted
            and self.imported(owner, name, viewer)
            and not self.withdrawn(owner, name)
        )

    @staticmethod
    def may_match(source: dict[str, Any], trust_domain: str) -> bool:
        """Whether some identity of a trust domain can be meant by a source."""
        domains, principals = source.get("trustDomains", []), source.get("principals", [])
        if domains and trust_domain not in domains:
            return False
        return not principals or any(text.split("/")[2] == trust_domain for text in principals)

    def outside(self, name: Name) -> set[tuple[str, str]]:
        """The addresses outside of all clusters that clusters declared for a service, each with its owner."""
        return {
            (key.scope, address)
            for key, spec, _ in self.resources
            if (key.kind, key.namespace, key.name) == ("ExternalService", *name)
            for address in spec["addresses"]
            if not any(
                self.is_a_controllers(address, port.get("targetPort") or port["port"], key.scope)
                for port in spec["ports"]
            )
        }

    # -- the answers -------------------------------------------------------------------------------

    def owners(self, viewer: str, name: Name) -> set[str]:
        """The clusters whose endpoints of a service a cluster sees, under that very name."""
        having = {row.key.cluster for row in self.endpoints if row.key[:2] == name}
        having |= {owner for owner, _ in self.outside(name)}
        return {owner for owner in having if self.sees(viewer, owner, name)}

    def stands_for(self, viewer: str, name: Name) -> Name | None:
        """The visible service that a name leads to in a cluster: itself, or what its aliases stand for."""
        for _ in range(9):
            if name.namespace == "isthmus-system":
                return None
            if self.owners(viewer, name):
                return name
            aliases = [
                spec
                for spec in self.of_kind("ServiceAlias", viewer, name.namespace)
                if spec["_name"] == name.service
            ]
            if not aliases:
                return None
            name = Name(aliases[0].get("namespace", name.namespace), aliases[0]["service"])
        return None

    def may_call(self, identity: str, owner: str, name: Name) -> bool:
        """Whether the owner lets an identity, SPIFFE ID of a workload, in at a service."""
        if owner not in self.clusters():
            return False
        domain, namespace = identity.split("/")[2], identity.split("/")[4]
        if domain == self.trust_domain(owner):
            return True
        callers = [one for one in self.clusters() if self.trust_domain(one) == domain]
        if not self.federated(domain) or not any(self.exported(owner, name, to) for to in callers):
            return False
        return any(
            (not source.get("trustDomains") or domain in source["trustDomains"])
            and (not source.get("namespaces") or namespace in source["namespaces"])
            and (not source.get("principals") or identity in source["principals"])
            for source in self.granting(owner, name)
        )
