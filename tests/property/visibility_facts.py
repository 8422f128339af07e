"""What each read path should show, by the oracle alone: nothing here asks the product."""

from collections.abc import Iterator

from discovery.core.model import Endpoint, ServiceKey
from tests.property.catalog_rows import ALL_KEYS, DOMAINS, NAMESPACES
from tests.support.visibility_oracle import Name, VisibilityOracle

Facts = set[tuple[str, ...]]
IDENTITIES = [f"spiffe://{domain}/ns/{ns}/sa/s" for domain in DOMAINS for ns in ("n", *NAMESPACES)]


def host(name: ServiceKey) -> str:
    return f"{name.service}.{name.namespace}.svc.clusterset.local"


def visible(oracle: VisibilityOracle, viewer: str) -> Iterator[tuple[ServiceKey, Name, set[str]]]:
    """Each name that leads somewhere, the service that it stands for, and the owners that are seen."""
    for name in ALL_KEYS:
        target = oracle.stands_for(viewer, Name(*name))
        if target is not None:
            yield name, target, oracle.owners(viewer, target)


def endpoints_of(oracle: VisibilityOracle, name: Name, owners: set[str]) -> list[Endpoint]:
    return [row for row in oracle.endpoints if row.key[:2] == name and row.key.cluster in owners]


def outside_of(oracle: VisibilityOracle, name: Name, owners: set[str]) -> list[tuple[str, str]]:
    return [(owner, address) for owner, address in oracle.outside(name) if owner in owners]


def view_facts(oracle: VisibilityOracle, viewer: str) -> Facts:
    return {
        (host(name), cluster, address)
        for name, target, owners in visible(oracle, viewer)
        for cluster, address in (
            *((row.key.cluster, row.address) for row in endpoints_of(oracle, target, owners)),
            *outside_of(oracle, target, owners),
        )
    }


def is_reached(oracle: VisibilityOracle, viewer: str, owner: str) -> bool:
    """Directly, as they are."""
    networks = [oracle.clusters()[name].get("network", "") for name in (viewer, owner)]
    return viewer == owner or (networks[0] == networks[1] != "")


def xds_facts(oracle: VisibilityOracle, viewer: str) -> Facts:
    found: Facts = set()
    edges = {
        row.key.cluster: row.address for row in oracle.endpoints if row.key.namespace == "isthmus-system"
    }
    for name, target, owners in visible(oracle, viewer):
        # Whom nobody could check is not called, even by callers of its own cluster.
        called = {owner for owner in owners if oracle.federated(oracle.trust_domain(owner))}
        if called:
            found.add(("route", host(name), host(ServiceKey(*target))))
        if name != target:
            continue  # An alias has no clusters of its own.
        for row in endpoints_of(oracle, target, called):
            owner = row.key.cluster
            found.add(("cluster", host(name), owner))
            address = row.address if is_reached(oracle, viewer, owner) else edges.get(owner)
            found |= {("address", host(name), address)} if address else set()
        for owner, outside in outside_of(oracle, target, called):
            found |= {("cluster", host(name), f"{owner}.external"), ("address", host(name), outside)}
    return found


def gateway_facts(oracle: VisibilityOracle, viewer: str) -> Facts:
    return {
        (host(name),)
        for name in ALL_KEYS
        if viewer in oracle.owners(viewer, Name(*name))
        and endpoints_of(oracle, Name(*name), {viewer})
        and oracle.federated(oracle.trust_domain(viewer))
        and any(
            set(spec.get("consumers", ["*"])) - {viewer} for spec in oracle.exporting(viewer, Name(*name))
        )
    }


def dns_facts(oracle: VisibilityOracle, viewer: str) -> Facts:
    found: Facts = set()
    for name, target, owners in visible(oracle, viewer):
        if not is_headless(oracle, viewer, target, owners):
            found.add((host(name), "own"))
            continue
        for row in endpoints_of(oracle, target, owners):
            owner = row.key.cluster
            networks = [oracle.clusters()[one].get("network", "") for one in (viewer, owner)]
            if "" in networks or networks[0] == networks[1] or viewer == owner:
                found |= {(host(name), row.address), (f"{row.key.name}.{owner}.{host(name)}", row.address)}
        for owner, address in outside_of(oracle, target, owners):
            label = "ext-" + address.replace(".", "-")
            found |= {(host(name), address), (f"{label}.{owner}.{host(name)}", address)}
    return found


def is_headless(oracle: VisibilityOracle, viewer: str, name: Name, owners: set[str]) -> bool:
    """What the oldest visible export says; what is kept for oneself comes first."""

    def age(owner: str) -> tuple[object, ...]:
        shown = [
            spec["_age"]
            for spec in oracle.exporting(owner, name)
            if set(spec.get("consumers", ["*"])) - {owner}
        ]
        return (1, min(shown), owner) if shown else (0, (), owner)

    said = oracle.exporting(min(owners, key=age), name)
    by_name = [spec for spec in said if name.service in spec.get("services", [])]
    by_namespace = [spec for spec in said if "services" in spec]
    nearest = by_name or by_namespace or said
    first = min(nearest, key=lambda spec: (spec["_age"], spec["_name"]), default={})
    return first.get("type") == "Headless"


def explained_facts(oracle: VisibilityOracle, viewer: str) -> Facts:
    return {(host(name), owner) for name, _, owners in visible(oracle, viewer) for owner in owners}


def admission_facts(oracle: VisibilityOracle, viewer: str) -> Facts:
    return {
        (host(name), identity)
        for name in ALL_KEYS
        for identity in IDENTITIES
        if oracle.may_call(identity, viewer, Name(*name))
    }


def api_facts(oracle: VisibilityOracle, viewer: str) -> Facts:
    """Its own operators; a remote's are those of its home."""
    if viewer not in oracle.clusters():
        return set()
    own = oracle.clusters()[viewer]
    return {(own.get("home") or viewer, own["trustDomain"])}
