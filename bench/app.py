"""The application that is called: says who it is, and how often the caller's Envoy had to try.

python -m bench.app --service orders --cluster beta --instance beta-1 --listen 127.0.0.1:8081
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


async def _serve(application: web.Application, listen: str) -> None:
    host, _, port = listen.rpartition(":")
    runner = web.AppRunner(application, access_log=None)
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
    options = parser.parse_args()
    application = _application(options.service, options.cluster, options.instance)
    asyncio.run(_serve(application, options.listen))


if __name__ == "__main__":
    main()
