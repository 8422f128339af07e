"""A server that answers writes at once and keeps nothing: what the calls alone cost in Python.

python -m bench.answering KEYS_DIRECTORY HOST
"""

import asyncio
import sys
from pathlib import Path

import grpc

from bench.log_member import CLIENT_PORT, Context, service
from bench.store_keys import server_credentials
from bench.store_wire import KV_SERVICE, MAINTENANCE_SERVICE, PutResponse, ResponseHeader, StatusResponse

_HEADER = ResponseHeader(member_id=1, revision=1, raft_term=1)
_WRITTEN = bytes(PutResponse(header=_HEADER).SerializeToString())
_LEADING = bytes(StatusResponse(header=_HEADER, leader=1).SerializeToString())


async def _put(_request: bytes, _context: Context) -> bytes:
    return _WRITTEN


async def _status(_request: bytes, _context: Context) -> bytes:
    return _LEADING


async def _main(keys: Path, host: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (service(KV_SERVICE, {"Put": _put}), service(MAINTENANCE_SERVICE, {"Status": _status}))
    )
    server.add_secure_port(f"{host}:{CLIENT_PORT}", server_credentials(keys))
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2]))
