"""Two clusters for the tests: views, certificates and the Envoys that one of them consists of."""

import hashlib
from pathlib import Path

import msgspec

from discovery.core.view import AdmittedSource
from gateways.core.proxy import Proxy
from tests.integration.gateways.mesh import Controller, Member, Mesh
from tests.support.loopback import LoopbackBlock
from tests.support.pki import TestDomain
from tests.unit.gateways.builders import (
    ORDERS,
    DictView,
    endpoint,
    gateway,
    owner,
    roots,
    service,
    sidecar,
    workload,
)

HOST = "orders.shop:8080"
CALLER = "/ns/shop/sa/web"
ALL_OF_ALPHA = AdmittedSource(trust_domain="alpha.example")


class Federation:
    """Cluster alpha calls `orders` in cluster beta; gamma is nobody's friend."""

    def __init__(self, folder: Path, block: LoopbackBlock) -> None:
        self.folder = folder
        self.block = block
        self.domains = {name: TestDomain(f"{name}.example", folder) for name in ("alpha", "beta", "gamma")}
        self.roots = {name: roots(name, found.bundle.pem().decode()) for name, found in self.domains.items()}
        self.alpha, self.beta = DictView("alpha"), DictView("beta")
        for view in (self.alpha, self.beta):
            view.trust(self.roots["alpha"], self.roots["beta"])
        self.beta_address, self.gateway_address = block.host(2), block.host(254)
        self.beta_port = block.port(self.beta_address)
        self.app = (self.beta_address, block.port(self.beta_address))
        self.gateway_port = block.port(self.gateway_address)
        self.alpha_address = block.host(1)
        self.alpha_port = block.port(self.alpha_address)
        self.local_app = (self.alpha_address, block.port(self.alpha_address))
        self.row = endpoint("beta", address=self.beta_address, listen_port=self.beta_port)
        self.beta.put(service(owner("beta", [self.row], local=True)), exported_to=["alpha"])

    def reach_through_gateway(self, *gateways: str, local: bool = False) -> None:
        """Alpha sees beta's `orders` behind these gateways (by address), and, if asked, one of its own."""
        found = [
            gateway("beta", f"gw{number}", address=address, port=self.gateway_port)
            for number, address in enumerate(gateways or [self.gateway_address], start=1)
        ]
        own = endpoint("alpha", address=self.alpha_address, listen_port=self.alpha_port)
        owners = [owner("alpha", [own], local=True)] if local else []
        self.alpha.put(service(*owners, owner("beta", [self.row], gateways=found)))

    def keep_callers(self) -> None:
        """Each of alpha's callers keeps to one endpoint of `orders`, as alpha sees it."""
        self.alpha.put(msgspec.structs.replace(self.alpha.known[ORDERS], affinity="ClientIP"))

    def reach_directly(self) -> None:
        self.alpha.put(service(owner("beta", [self.row])))

    def grant(self, *sources: AdmittedSource) -> None:
        self.beta.sources[ORDERS] = sources

    async def controllers(self, mesh: Mesh) -> list[Controller]:
        host = self.block.host(10)
        return [await mesh.controller(view, host, self.block.port(host)) for view in (self.alpha, self.beta)]

    def caller(self, number: int, controllers: list[Controller]) -> Member:
        address = self.block.host(20 + number)
        outbound = (address, self.block.port(address))
        proxy = sidecar("alpha", id=f"web-{number}", address=address, outbound=outbound)
        return self.member(proxy, CALLER, controllers)

    def callee(self, controllers: list[Controller]) -> Member:
        return self._callee("beta", self.beta_address, self.beta_port, self.app, controllers)

    def local_callee(self, controllers: list[Controller]) -> Member:
        return self._callee("alpha", self.alpha_address, self.alpha_port, self.local_app, controllers)

    def gateway(self, controllers: list[Controller], address: str = "", *, cluster: str = "beta") -> Member:
        address = address or self.gateway_address
        proxy = Proxy(
            id=f"eastwest-{address}",
            cluster=cluster,
            agent="a1",
            kind="gateway",
            address=address,
            gateway_name="gw1",
            gateway_port=self.gateway_port,
        )
        return self.member(proxy, f"/isthmus/{cluster}/gateway/a1", controllers)

    def again(self, member: Member) -> Member:
        """The same proxy with an agent that starts anew."""
        path = CALLER if member.proxy.workloads == () else "/ns/shop/sa/orders"
        return self.member(member.proxy, path, member.controllers)

    def _callee(
        self, cluster: str, address: str, port: int, app: tuple[str, int], controllers: list[Controller]
    ) -> Member:
        found = workload(cluster, app=app, listen_port=port)
        proxy = sidecar(cluster, id=f"orders-{cluster}", address=address, outbound=None, workloads=[found])
        return self.member(proxy, "/ns/shop/sa/orders", controllers)

    def member(
        self, proxy: Proxy, path: str, controllers: list[Controller], *, binary: Path | None = None
    ) -> Member:
        """One Envoy with the certificate of a workload, or of a gateway, of its cluster's domain."""
        domain = self.domains[proxy.cluster]
        # A Unix socket's path has 107 bytes at most, and pytest's own folders take most of them.
        folder = self.folder / hashlib.sha256(proxy.id.encode()).hexdigest()[:6]
        member = Member(proxy, domain.trust_domain, folder, controllers, binary=binary)
        member.set_certificate(domain.leaf(path).pem())
        return member
