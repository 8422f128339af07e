"""One question to another controller, over its control port."""

from typing import Any

import grpc

from certs.runtime.identity import LeafIdentity
from federation.agent.control import from_rpc_error, open_channel
from federation.agent.directory import DirectoryStore
from federation.api.messages import CONTROL_SERVICE, NamedController

ASK_TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 1024 * 1024
# At most 9 vote; the others are learners, or wait for a place.
CONTROLLERS_ASKED_MAX = 32


async def ask(
    controller: NamedController,
    method: str,
    question: bytes,
    *,
    leaf: LeafIdentity,
    directory: DirectoryStore,
) -> bytes:
    """Call a method of the Control service; raises an IsthmusError after at most ASK_TIMEOUT_S."""
    async with open_channel(controller, leaf, directory, message_bytes_max=ANSWER_BYTES_MAX) as channel:
        call: Any = channel.unary_unary(f"/{CONTROL_SERVICE}/{method}", _as_is, _as_is)
        try:
            answer: bytes = await call(question, timeout=ASK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"{method.lower()} of {controller.spec.control}") from error
    return answer


def _as_is(message: bytes) -> bytes:
    return message
