"""The shop that the demo runs: frontend, catalogue, orders, payments, each instance a process of its own.

    python -m chaos.shop.app --service orders --cluster beta --instance beta-1 --listen 127.0.0.1:8081 \
        --outbound 127.0.0.1:15001

Every path answers who it is and who called. `/chain` is a purchase: each service asks the next one first, by Host
header through its sidecar's outbound listener or, without `--outbound`, by plain name, and the answer lists the hops.
It never tries twice: what survives a fault is the work of the proxies.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import aiohttp
import msgspec
from aiohttp import web

from chaos.lab.topology import SERVICES, plain_name, service_host

CHAIN_PATH = "/chain"
# Longer than any caller waits, so that it is the caller whose patience counts.
_NEXT_TIMEOUT_S = 10.0
_ERROR_BYTES_MAX = 500
_NEXT = dict(pairwise(SERVICES))


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One instance that took part in an answer."""

    service: str
    cluster: str
    instance: str
    caller: str = ""  # As its sidecar saw it: x-forwarded-client-cert.
    attempts: int = 0  # How often the caller's Envoy had to try; 0: it did not say.


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `/chain`: who was asked, in that order."""

    hops: tuple[Hop, ...]


class Instance:
    """One instance of a service. `outbound` is host:port of its sidecar's listener; empty: names are captured."""

    def __init__(self, service: str, cluster: str, instance: str, *, outbound: str, broken: str = "") -> None:
        self._me = Hop(service=service, cluster=cluster, instance=instance)
        self._outbound = outbound
        self._broken_path = (
            broken  # Of a bad release: all that it answers there is 500; empty: of a good one.
        )

    def application(self) -> web.Application:
        """Return what serves it."""
        application = web.Application()
        if self._broken_path:
            application.router.add_route("*", self._broken_path, self._fail)
        application.router.add_get(CHAIN_PATH, self._chain)
        application.router.add_route("*", "/{path:.*}", self._identify)
        application.cleanup_ctx.append(self._open)
        return application

    async def _open(self, _application: web.Application) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=_NEXT_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            self._session = session
            yield

    async def _identify(self, request: web.Request) -> web.Response:
        return _answer(self._hop(request))

    async def _fail(self, _request: web.Request) -> web.Response:
        return self._broken("a bad release")

    async def _chain(self, request: web.Request) -> web.Response:
        following = _NEXT.get(self._me.service)
        if following is None:
            return _answer(Chain(hops=(self._hop(request),)))
        url, headers = f"http://{plain_name(following)}{CHAIN_PATH}", {}
        if self._outbound:
            url, headers = f"http://{self._outbound}{CHAIN_PATH}", {"Host": service_host(following)}
        try:
            async with self._session.get(url, headers=headers) as response:
                body = await response.read()
                if response.status != web.HTTPOk.status_code:
                    said = body[:_ERROR_BYTES_MAX].decode(errors="replace")
                    return self._broken(f"{following} answered {response.status}: {said}")
                rest = msgspec.json.decode(body, type=Chain)
        except (TimeoutError, aiohttp.ClientError, msgspec.DecodeError) as error:
            return self._broken(f"{following}: {type(error).__name__}: {error}")
        return _answer(Chain(hops=(self._hop(request), *rest.hops)))

    def _hop(self, request: web.Request) -> Hop:
        return msgspec.structs.replace(
            self._me,
            caller=request.headers.get("x-forwarded-client-cert", ""),
            attempts=int(request.headers.get("x-envoy-attempt-count", "0")),
        )

    def _broken(self, why: str) -> web.Response:
        """500 and not 502 or 503: a proxy would repeat those, and the whole chain behind them."""
        return web.Response(status=500, text=f"{self._me.service} in {self._me.cluster}: {why}")


def _answer(value: Hop | Chain) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


async def _serve(instance: Instance, listen: str) -> None:
    host, _, port = listen.rpartition(":")
    runner = web.AppRunner(instance.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, int(port)).start()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--service", required=True)
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--instance", required=True)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--outbound", default="", metavar="HOST:PORT")
    parser.add_argument("--broken", default="", metavar="PATH", help="be a bad release: answer 500 there")
    options = parser.parse_args()
    instance = Instance(
        options.service,
        options.cluster,
        options.instance,
        outbound=options.outbound,
        broken=options.broken,
    )
    asyncio.run(_serve(instance, options.listen))


if __name__ == "__main__":
    main()
