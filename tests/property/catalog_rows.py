"""Rows of all kinds that views depend on, generated: small worlds in which things come, go and come back."""

from hypothesis import strategies as st

from discovery.core.model import EndpointPort, ServiceKey
from discovery.core.verdicts import verdict_key
from tests.unit.discovery.builders import (
    endpoint,
    gateway,
    put,
    put_alias,
    put_cluster_export,
    put_drain,
    put_export,
    put_external,
    put_grant,
    put_import,
    put_trust_domain,
    resource,
    with_states,
)
from tests.unit.discovery.builders import key as resource_key

CLUSTERS = ("alpha", "beta", "delta", "gamma")
DOMAINS = ("alpha.test", "beta.test", "gamma.test")
NAMESPACES = ("pay", "shop")
SERVICES = ("carts", "orders")
ALL_KEYS = [ServiceKey(namespace, service) for namespace in NAMESPACES for service in ("also", *SERVICES)]

# Of endpoints 10.CLUSTER.SERVICE.1, and gateways 10.1.0.1: all, all again, only those of few services, none, but
# addresses outside that others may have declared.
RANGES: tuple[list[str], ...] = (
    [],
    ["10.0.0.0/8"],
    [f"10.{number}.0.0/23" for number in range(len(CLUSTERS))],
    ["192.0.2.0/24", "203.0.113.4/31", "203.0.1.0/24"],
)

some = st.lists(st.sampled_from(SERVICES), min_size=1, max_size=2).map(tuple) | st.just(("*",))
places = st.sampled_from(("", "east", "west"))
principals = st.builds("spiffe://{}/ns/n/sa/s".format, st.sampled_from(DOMAINS))


@st.composite
def cluster_rows(draw):
    name = draw(st.sampled_from(CLUSTERS))
    domain = "alpha.test" if name == "delta" else f"{name}.test"
    spec = {"role": "primary", "trustDomain": domain, "region": draw(places), "zone": draw(places)}
    spec["network"] = draw(st.sampled_from(("", "lan", "far")))
    spec["ranges"] = draw(st.sampled_from(RANGES))
    if name == "delta":
        spec |= {"role": "remote", "home": "alpha"}
    return resource(put(resource_key("Cluster", name), spec))


@st.composite
def grant_rows(draw):
    source = {
        "trustDomains": list(draw(st.lists(st.sampled_from(DOMAINS), max_size=2))),
        "principals": list(draw(st.lists(principals, max_size=2))),
        "namespaces": list(draw(st.lists(st.sampled_from(NAMESPACES), max_size=1))),
    }
    owner, namespace = draw(st.sampled_from(CLUSTERS)), draw(st.sampled_from(NAMESPACES))
    return resource(put_grant(owner, namespace, *draw(some), name=draw(st.sampled_from("ab")), **source))


def export_rows():
    consumers = st.lists(st.sampled_from((*CLUSTERS, "*")), min_size=1, max_size=2)
    return st.builds(
        lambda owner, namespace, services, to, name, kind, affinity, created: resource(
            put_export(
                owner,
                namespace,
                *services,
                consumers=to,
                name=name,
                type=kind,
                sessionAffinity=affinity,
            ),
            created=created,
        ),
        st.sampled_from(CLUSTERS),
        st.sampled_from(NAMESPACES),
        some,
        consumers,
        st.sampled_from("ab"),
        st.sampled_from(("ClusterSetIP", "Headless")),
        st.sampled_from(("None", "ClientIP")),
        st.integers(1, 3),
    )


def drain_rows():
    return st.builds(
        lambda cluster, share: resource(put_drain(cluster, share)),
        st.sampled_from(CLUSTERS),
        st.sampled_from((0, 50, 100)),
    )


def every_export_rows():
    return st.builds(
        lambda owner, to, excepted, created: resource(
            put_cluster_export(owner, consumers=to, exceptNamespaces=excepted), created=created
        ),
        st.sampled_from(CLUSTERS),
        st.lists(st.sampled_from((*CLUSTERS, "*")), min_size=1, max_size=2),
        st.lists(st.sampled_from(NAMESPACES), max_size=1),
        st.integers(1, 3),
    )


def import_rows():
    def names(known):
        return st.just(["*"]) | st.lists(st.sampled_from(known), min_size=1, max_size=2)

    return st.builds(
        lambda viewer, name, action, clusters, namespaces, services: resource(
            put_import(
                viewer, name=name, action=action, clusters=clusters, namespaces=namespaces, services=services
            )
        ),
        st.sampled_from(CLUSTERS),
        st.sampled_from("ab"),
        st.sampled_from(("Take", "Refuse")),
        names(CLUSTERS),
        names(NAMESPACES),
        names(SERVICES),
    )


def alias_rows():
    names = st.sampled_from((*SERVICES, "also"))
    return st.builds(
        lambda viewer, namespace, name, service, of: resource(
            put_alias(viewer, namespace, name, service, of)
        ),
        st.sampled_from(CLUSTERS),
        st.sampled_from(NAMESPACES),
        names,
        names,
        st.sampled_from(("", *NAMESPACES)),
    )


def endpoint_rows():
    port = st.builds(
        EndpointPort,
        name=st.sampled_from("pq"),
        service_port=st.sampled_from((80, 81)),
        listen_port=st.just(15006),
        protocol=st.sampled_from(("http", "tcp")),
    )
    return st.builds(
        lambda cluster, namespace, service, name, ready, port: endpoint(
            cluster, name, namespace=namespace, service=service, ready=ready, ports=(port,)
        ),
        st.sampled_from(CLUSTERS),
        st.sampled_from(NAMESPACES),
        st.sampled_from(SERVICES),
        st.sampled_from(("e1", "e2")),
        st.booleans(),
        port,
    )


def loss_rows():
    return st.builds(
        lambda owner, namespace, services, choice, name: resource(
            put(
                resource_key("LossPolicy", name, scope=owner, namespace=namespace),
                {"services": services, "onLoss": choice},
            )
        ),
        st.sampled_from(CLUSTERS),
        st.sampled_from(NAMESPACES),
        some,
        st.sampled_from(("keep", "last-resort", "withdraw")),
        st.sampled_from("ab"),
    )


def verdict_rows():
    return st.builds(
        lambda cluster, state: resource(put(verdict_key(cluster), {"state": state, "sinceMs": 1})),
        st.sampled_from(CLUSTERS),
        st.sampled_from(("ok", "dead", "data-degraded")),
    )


def controller_rows(*addresses):
    """Controllers that listen where endpoints, at their port, and addresses outside are; or elsewhere."""
    return st.builds(
        lambda name, cluster, role, address, port: resource(
            put(
                resource_key("Controller", name),
                {
                    "cluster": cluster,
                    "role": role,
                    "identity": "spiffe://alpha.test/isthmus/alpha/controller/1",
                    "control": f"{address}:{port}",
                },
            )
        ),
        st.sampled_from(("alpha-1", "alpha-2")),
        st.sampled_from(("alpha", "beta")),
        st.sampled_from(("member", "mirror")),
        st.sampled_from((*addresses, "192.0.2.1")),
        st.sampled_from((15006, 8080, 9000)),
    )


def external_rows():
    return st.builds(
        lambda owner, namespace, name, number, protocol, state: with_states(
            resource(
                put_external(
                    owner,
                    namespace,
                    name,
                    "203.0.113.5",
                    "203.0.113.6",
                    ports=[{"name": "p", "port": number, "targetPort": 9000, "protocol": protocol}],
                )
            ),
            **({"a5": state} if state else {}),
        ),
        st.sampled_from(CLUSTERS),
        st.sampled_from(NAMESPACES),
        st.sampled_from(SERVICES),
        st.sampled_from((80, 81)),
        st.sampled_from(("http", "tcp")),
        st.sampled_from(("", "ok", "degraded", "unhealthy")),
    )


# What nearly always matters, drawn often enough to come, go and come back.
COMMON = [
    *(resource(put(resource_key("Cluster", name), {"role": "primary", "trustDomain": f"{name}.test"})) for name in ("alpha", "beta", "gamma")),
    resource(put(resource_key("Cluster", "delta"), {"role": "remote", "trustDomain": "alpha.test", "home": "alpha"})),
    *(resource(put_trust_domain(name)) for name in DOMAINS),
    *(resource(put_export(owner, "shop", "orders", name="a")) for owner in CLUSTERS),
    *(resource(put_grant(owner, "shop", "orders", name="a")) for owner in CLUSTERS),
    *(endpoint(owner, "e1") for owner in CLUSTERS),
    *(gateway(owner) for owner in CLUSTERS),
]  # fmt: skip

rows = st.one_of(
    st.sampled_from(COMMON),
    st.sampled_from(COMMON),
    cluster_rows(),
    export_rows(),
    grant_rows(),
    every_export_rows(),
    import_rows(),
    alias_rows(),
    endpoint_rows(),
    drain_rows(),
    loss_rows(),
    verdict_rows(),
    external_rows(),
    controller_rows("10.1.0.1", "203.0.113.5"),
    st.builds(lambda cluster, ready: gateway(cluster, ready=ready), st.sampled_from(CLUSTERS), st.booleans()),
)
steps = st.lists(st.tuples(rows, st.booleans()), min_size=1, max_size=4)
