"""What controllers of one cluster tell each other: which agents each of them hears, and what those said.

An endpoint lives while any controller of its cluster hears its agent, and between two lists of an agent the
newest (incarnation, sequence) wins, whichever controller heard it. So each controller follows what the others
hear, by a stream of its own, since none of it waits for the log:

    HearRequest(cluster)
        -> AgentHeard...                      each agent that is live there, with its whole list
        -> Beat                               that was all; then every second
        -> AgentHeard...                      whatever changed since

Only what a controller heard itself is told, never what it was told: two that both lost an agent cannot keep
it alive by repeating each other's word.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Collection
from typing import TypeAlias

import msgspec

from discovery.core.model import Endpoint, EndpointKey
from federation.api.messages import Message
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError, LimitExceededError
from federation.kernel.versions import PROTOCOL_VERSION

HEARD_SERVICE = "isthmus.v1.Heard"  # Method Hear: one request, a stream of answers.

BEAT_S = 1.0
HEARD_ROWS_MAX = 1_000  # Of one agent: a message must stay below gRPC's limit.
HEARERS_MAX = 32  # Other controllers of one cluster.


class HearRequest(Message, frozen=True, kw_only=True):
    """Opens a stream."""

    cluster: str
    protocol: int = PROTOCOL_VERSION


class AgentHeard(Message, frozen=True, kw_only=True, tag="agent"):
    """The whole list of one agent, up to (incarnation, sequence); or that it is not heard here."""

    agent: str
    live: bool = False
    incarnation: int = -1
    sequence: int = -1
    rows: tuple[Endpoint, ...] = ()
    refused: tuple[EndpointKey, ...] = ()  # What it has besides, by rows that were refused here.


class Beat(Message, frozen=True, kw_only=True, tag="beat"):
    """Everything up to now was told."""


HeardAnswer: TypeAlias = AgentHeard | Beat

_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(HearRequest)
_answer_decoder: msgspec.msgpack.Decoder[HeardAnswer] = msgspec.msgpack.Decoder(HeardAnswer)


def encode_heard(message: HearRequest | HeardAnswer) -> bytes:
    """Return the message's bytes."""
    return _encoder.encode(message)


def decode_hear_request(data: bytes) -> HearRequest:
    """Read a request; raises `InvalidInputError` on anything else."""
    try:
        return _request_decoder.decode(data)
    except MALFORMED as error:
        raise InvalidInputError(f"hear request: {error}") from error


def decode_heard(data: bytes) -> HeardAnswer:
    """Read an answer; raises `InvalidInputError` on anything else."""
    try:
        return _answer_decoder.decode(data)
    except MALFORMED as error:
        raise InvalidInputError(f"hear answer: {error}") from error


class HeardFeed:
    """Tells each other controller the newest of every agent that is live here. Lives on the event loop.

    `list_of` gives what is to be said of an agent now, `is_live` only whether it is live: most changes have no
    hearer, and must not cost the agent's whole list. A slow hearer costs one set of names: it is told the
    newest state of an agent, not each change.
    """

    def __init__(self, list_of: Callable[[str], AgentHeard], *, is_live: Callable[[str], bool]) -> None:
        self._list_of = list_of
        self._is_live = is_live
        # In the order in which they came: what happens first must not depend on hashes.
        self._live: dict[str, None] = {}
        self._hearers: dict[_Hearer, None] = {}

    def changed(self, agent: str) -> None:
        """The agent said something, or its stream began or ended."""
        live = self._is_live(agent)
        if not live and agent not in self._live:
            return
        if live:
            self._live[agent] = None
        else:
            self._live.pop(agent, None)
        for hearer in self._hearers:
            hearer.offer(agent)

    async def subscribe(self) -> AsyncGenerator[HeardAnswer]:
        """Answer one controller until it closes the iterator; raises `LimitExceededError` for too many."""
        if len(self._hearers) >= HEARERS_MAX:
            raise LimitExceededError(f"{HEARERS_MAX} controllers listen already")
        hearer = _Hearer(self._live)
        self._hearers[hearer] = None
        try:
            while True:
                while (agent := hearer.take()) is not None:
                    yield self._list_of(agent)
                yield Beat()
                await hearer.wait()
        finally:
            del self._hearers[hearer]


class _Hearer:
    """The agents of which one controller has not been told the newest yet; at most all of the cluster."""

    def __init__(self, agents: Collection[str]) -> None:
        self._agents = dict.fromkeys(agents)
        self._something = asyncio.Event()

    def offer(self, agent: str) -> None:
        self._agents[agent] = None
        self._something.set()

    def take(self) -> str | None:
        agent = next(iter(self._agents), None)
        if agent is not None:
            del self._agents[agent]
        return agent

    async def wait(self) -> None:
        """Return when there is something to tell, or when it is time for a beat."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                await self._something.wait()
        self._something.clear()


class Fellows:
    """The other controllers of a cluster, and which of them are heard now."""

    def __init__(self) -> None:
        self.known: frozenset[str] = frozenset()
        self._heard: set[str] = set()

    def heard(self, controller: str) -> None:
        """Its stream is open and has told everything."""
        self._heard.add(controller)

    def lost(self, controller: str) -> None:
        """Its stream ended."""
        self._heard.discard(controller)

    @property
    def missing(self) -> frozenset[str]:
        """Those that are not heard now."""
        return self.known - self._heard

    @property
    def all_missing(self) -> bool:
        """True when there are others and none is heard."""
        return bool(self.known) and self.missing == self.known
