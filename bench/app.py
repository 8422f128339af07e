"""The application that is called: says who it is, and how often the caller's Envoy had to try.

python -m bench.app --cluster alpha --instance a1 --listen stock=127.0.0.1:8080 --listen ...
"""

import argparse
import asyncio

from aiohttp import web

ATTEMPTS_HEADER = "x-envoy-attempt-count"


def _application(service: str, cluster: str, instance: str) -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "service": service,
                "cluster": cluster,
                "instance": instance,
                "attempts": int(request.headers.get(ATTEMPTS_HEADER, "0")),
            }
        )

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    return application


async def _serve(cluster: str, instance: str, listens: list[str]) -> None:
    for listen in listens:
        service, _, address = listen.partition("=")
        host, _, port = address.rpartition(":")
        runner = web.AppRunner(_application(service, cluster, instance), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, host, int(port)).start()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--instance", required=True)
    parser.add_argument("--listen", action="append", required=True, help="SERVICE=HOST:PORT")
    options = parser.parse_args()
    asyncio.run(_serve(options.cluster, options.instance, options.listen))


if __name__ == "__main__":
    main()
