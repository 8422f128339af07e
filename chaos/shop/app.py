"""The demo's application: answers every request with who it is and who called.

python -m chaos.shop.app --cluster alpha --instance a1 --listen stock=127.0.0.1:8080 --listen ...
"""

import argparse
import asyncio
import os

from aiohttp import web


def _handler(service: str, cluster: str, instance: str) -> object:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "service": service,
                "cluster": cluster,
                "instance": instance,
                "pid": os.getpid(),
                "caller": request.headers.get("x-forwarded-client-cert", ""),
            }
        )

    return answer


async def _serve(cluster: str, instance: str, listens: list[str]) -> None:
    for listen in listens:
        service, _, address = listen.partition("=")
        host, _, port = address.rpartition(":")
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", _handler(service, cluster, instance))  # type: ignore[arg-type]
        runner = web.AppRunner(app, access_log=None)
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
