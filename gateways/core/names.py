"""Names of xDS resources. They stay as they are: counters, dashboards and other controllers know them.

HOST is `SERVICE.NAMESPACE.svc.clusterset.local`, PORT the port that callers name. The forms with bars and
with `outbound_.` are Istio's, so that its users and tools recognise them.
"""

from discovery.core.model import ServiceKey

DOMAIN = "clusterset.local"

# The route configuration of a sidecar's outbound listener.
OUTBOUND_ROUTES = "outbound"
# Secrets: the proxy's own certificate, made by its agent, and the domains that may call it.
OWN_CERTIFICATE = "default"
INBOUND_ROOTS = "inbound"

GATEWAY_LISTENER = "eastwest"
OUTBOUND_LISTENER = "outbound"
# The cluster of captured connections to what is no service: where they were bound for.
PASSTHROUGH = "PassthroughCluster"

# Every SNI that a gateway may pass on ends in this.
SERVICE_SNI_SUFFIX = f"*.svc.{DOMAIN}"


def host(key: ServiceKey) -> str:
    """The service's name in the clusterset (KEP-1645)."""
    return f"{key.service}.{key.namespace}.svc.{DOMAIN}"


def service_cluster(key: ServiceKey, port: int) -> str:
    """The aggregate cluster that routes name."""
    return f"outbound|{port}||{host(key)}"


def owner_cluster(key: ServiceKey, port: int, part: str) -> str:
    """One part of a service: what lives in the cluster of that name, or what CLUSTER.external declared outside."""
    return f"outbound|{port}||{host(key)}|{part}"


def service_sni(key: ServiceKey, port: int) -> str:
    """What a caller writes into its TLS hello; also the name of the gateway's cluster for the service."""
    return f"outbound_.{port}_._.{host(key)}"


def inbound_cluster(key: ServiceKey, port: int) -> str:
    """The application behind a sidecar; also the name of the inbound route configuration."""
    return f"inbound|{port}||{host(key)}"


def inbound_listener(listen_port: int) -> str:
    """The listener of one workload port."""
    return f"inbound|{listen_port}"


def captured_listener(vip: str, port: int) -> str:
    """The listener of one port at a clusterset address."""
    return f"{vip}_{port}"


def outbound_tcp_listener(address: str, port: int) -> str:
    """The listener of a local address that stands for one TCP port of a service."""
    return f"outbound_tcp|{address}|{port}"


def roots_secret(trust_domain: str, other_trust_domain: str = "") -> str:
    """The validation context that judges one trust domain, and only that; or two, each by its own roots."""
    both = sorted(domain for domain in (trust_domain, other_trust_domain) if domain)
    return f"roots/{'|'.join(both)}"


def gateways_health_sni(cluster: str) -> str:
    """The SNI that ends at whichever gateway of `cluster` it reaches.

    Envoy chooses the TLS context of a health check per cluster, not per endpoint, so callers cannot name
    the gateway; the connection goes to the gateway's own address anyway.
    """
    return f"health.{cluster}.isthmus.internal"


def gateway_health_sni(gateway: str, cluster: str) -> str:
    """The SNI that ends at one gateway and answers its health."""
    return f"health.{gateway}.{cluster}.isthmus.internal"


def gateway_identity_prefix(trust_domain: str, cluster: str) -> str:
    """What the identity of every gateway of `cluster` begins with."""
    return f"spiffe://{trust_domain}/isthmus/{cluster}/gateway/"
