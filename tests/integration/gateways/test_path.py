"""One service in another cluster, through real Envoys: who gets through, and who does not."""

import asyncio

from discovery.core.view import AdmittedSource
from tests.integration.gateways.federation import ALL_OF_ALPHA, CALLER, HOST
from tests.integration.gateways.mesh import Mesh, caller
from tests.support.wait import eventually_async


def test_a_call_passes_the_gateway_unread_and_the_callee_learns_who_called(federation):
    federation.reach_through_gateway()
    federation.grant(ALL_OF_ALPHA)

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            alpha, beta = await federation.controllers(mesh)
            application = await mesh.application("beta", *federation.app)
            web, orders, door = (
                federation.caller(1, [alpha]),
                federation.callee([beta]),
                federation.gateway([beta]),
            )
            for member in (orders, door, web):
                mesh.start(member)
            await mesh.ready(orders, door, web)
            async with caller(web.proxy) as client:
                _, answer = await client.until(HOST, lambda status, _: status == 200)
                assert answer["headers"]["x-forwarded-client-cert"].endswith(
                    f";URI=spiffe://alpha.example{CALLER}"
                )
                passed = await door.counter("^tcp.eastwest.downstream_cx_total$")
                assert passed > 0
                for host in (
                    "orders.shop.svc.clusterset.local",
                    "orders",
                    "ORDERS.shop.svc.cluster.local.:8080",
                ):
                    assert (await client.call(host))[0] == 200, host
                assert (await client.call(HOST, method="POST"))[0] == 200
                assert (await client.call(HOST, "/?status=500"))[0] == 500
                assert await client.call("cart.shop") == (
                    404,
                    "no service cart.shop is visible to cluster alpha\n",
                )
                assert (await client.call(f"{HOST}1"))[0] == 404
            # One connection carries it all; the gateway read none of it, only questions about its health.
            assert await door.counter("^tcp.eastwest.downstream_cx_total$") == passed
            await eventually_async(
                lambda: door.counter("^http.health.downstream_cx_total$"),
                timeout_s=60,
                message="health questions",
            )
            member = "cluster.outbound.8080..orders.shop.svc.clusterset.local.beta.membership_healthy"
            await eventually_async(lambda: web.counter(member), timeout_s=60, message="a healthy gateway")
            assert application.requests >= 6
            for controller in (alpha, beta):
                assert all(
                    kind.status == "acked" for proxy in controller.service.status() for kind in proxy.types
                )

    asyncio.run(scenario())


def test_only_proven_and_admitted_callers_reach_an_application(federation):
    federation.reach_directly()
    federation.grant(AdmittedSource(trust_domain="alpha.example", namespaces=("shop",)))
    alpha, gamma = federation.domains["alpha"], federation.domains["gamma"]
    admitted = f"spiffe://alpha.example{CALLER}"
    certificates = {
        "admitted": (alpha.leaf(CALLER).pem(), 200),
        "another namespace": (alpha.leaf("/ns/bank/sa/web").pem(), 403),
        # Beta's own domain may call beta, and says so here by the hand of alpha's authority.
        "two identities": (alpha.forge(uris=[admitted, "spiffe://beta.example/ns/shop/sa/x"]).pem(), 403),
        "an identity and its look-alike": (
            alpha.forge(uris=["spiffe://alpha.example/ns/bank/sa/web"], dns=[admitted]).pem(),
            403,
        ),
        "a domain that is not federated": (gamma.leaf(CALLER).pem(), 503),
        "a forged domain": (gamma.forge(uris=[admitted]).pem(), 503),
    }

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            controllers = await federation.controllers(mesh)
            application = await mesh.application("beta", *federation.app)
            orders = federation.callee(controllers[1:])
            mesh.start(orders)
            members = {}
            for number, (name, (pem, _)) in enumerate(certificates.items()):
                members[name] = federation.caller(number, controllers[:1])
                members[name].set_certificate(pem)
                mesh.start(members[name])
            await mesh.ready(orders, *members.values())
            for name, (_, expected) in certificates.items():
                before = application.requests
                async with caller(members[name].proxy) as client:
                    status, answer = await client.call(HOST, method="POST")
                    assert status == expected, (name, answer)
                assert application.requests == before + (expected == 200), name
            assert await orders.counter("ssl.fail_verify_error$") >= 2
            # A grant withdrawn takes effect on the connection that is open.
            async with caller(members["admitted"].proxy) as client:
                opened = await orders.counter("^http.inbound.downstream_cx_total$")
                federation.grant()
                controllers[1].publish()
                await client.until(HOST, lambda status, _: status == 403)
                assert await orders.counter("^http.inbound.downstream_cx_total$") == opened

    asyncio.run(scenario())


def test_a_callee_that_is_not_who_the_view_says_is_refused(federation):
    federation.reach_directly()
    federation.grant(ALL_OF_ALPHA)
    beta, gamma = federation.domains["beta"], federation.domains["gamma"]
    rightful = "spiffe://beta.example/ns/shop/sa/orders"
    impostors = {
        "another identity of the domain": beta.leaf("/ns/shop/sa/cart").pem(),
        "a forged domain": gamma.forge(uris=[rightful]).pem(),
        "another domain's first, the right one second": gamma.forge(
            uris=["spiffe://gamma.example/ns/shop/sa/orders", rightful]
        ).pem(),
    }

    async def scenario() -> None:
        async with Mesh(federation.folder) as mesh:
            controllers = await federation.controllers(mesh)
            application = await mesh.application("beta", *federation.app)
            orders, web = federation.callee(controllers[1:]), federation.caller(1, controllers[:1])
            mesh.start(orders)
            mesh.start(web)
            await mesh.ready(orders, web)
            async with caller(web.proxy) as client:
                await client.until(HOST, lambda status, _: status == 200)
                for name, pem in impostors.items():
                    orders.set_certificate(pem)
                    orders.kill()  # So that the caller has to connect again.
                    await eventually_async(lambda: not orders.envoy.ready.is_set(), timeout_s=60)
                    await mesh.ready(orders)
                    before = application.requests, await web.counter("ssl.fail_verify")
                    status, answer = await client.until(HOST, lambda status, _: status == 503)
                    assert application.requests == before[0], (name, status, answer)
                    assert await web.counter("ssl.fail_verify") > before[1], (
                        f"{name}: refused for its certificate"
                    )

    asyncio.run(scenario())
