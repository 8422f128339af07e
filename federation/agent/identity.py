"""Keeps the leaves of a process alive: renewed at half life by a controller of the own trust domain.

A valid leaf is never thrown away: the new one replaces it only after its chain has been proved. Half
of 24 hours is how long the certificate authority may be away.

When the process's cluster moves to another home, the directory says by which trust domain its processes are known from
then on: the same identities are asked for there at once.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
import structlog

from certs.core.spiffe import SpiffeId, parse
from certs.core.verifier import verify_chain
from certs.runtime.clock import utc_now
from certs.runtime.identity import LeafIdentity
from federation.agent.backoff import Backoff
from federation.agent.control import open_channel, sign
from federation.agent.directory import DirectoryStore, signing_controllers
from federation.api.messages import SignReply, SignRequest
from federation.kernel.errors import BadIdentityError, IsthmusError, UnavailableError

# Part of the life after which a leaf is renewed; spread, so that a fleet started together does not
# come back together.
RENEW_FROM, RENEW_TO = 0.4, 0.6
RETRY_CAP_S = 60.0
# The wall clock may jump while we sleep: look at it again at least this often.
LOOK_AGAIN_S = 30.0

Sign = Callable[[SignRequest], Awaitable[SignReply]]

_log = structlog.get_logger("identity")


class IdentityKeeper:
    """Renews one leaf for ever, or gets it if there is none yet.

    `cluster` is that of the process, whose trust domain the leaf follows. `on_renewed` is called after each new leaf is on disk. `error` is what the last attempt failed
    with, empty after a success.
    """

    def __init__(
        self,
        leaf: LeafIdentity,
        spiffe_id: SpiffeId,
        *,
        cluster: str,
        directory: DirectoryStore,
        sign: Sign,
        on_renewed: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.leaf = leaf
        self.spiffe_id = leaf.spiffe_id if leaf.installed else spiffe_id  # Of the leaf that is shown.
        self.error = ""
        self.ready = asyncio.Event()  # Set once there is a leaf that has not expired.
        self._cluster = cluster
        self._directory = directory
        self._sign = sign
        self._on_renewed = on_renewed
        self._clock = clock
        self._spread = random.uniform(RENEW_FROM, RENEW_TO)  # noqa: S311 - spreads load, guards nothing

    @property
    def due(self) -> datetime:
        """When the next renewal is wanted."""
        if not self.leaf.installed or self.wanted != self.spiffe_id:
            return self._clock()
        return self._renew_at()

    @property
    def wanted(self) -> SpiffeId:
        """The identity that the leaf should show: the one of now, in the trust domain of the cluster's home."""
        domain = self._directory.current.trust_domains.get(self._cluster, self.spiffe_id.trust_domain)
        return msgspec.structs.replace(self.spiffe_id, trust_domain=domain)

    @property
    def valid(self) -> bool:
        """True while there is a leaf that has not expired."""
        return self.leaf.installed and self._clock() < self.leaf.not_after

    async def run(self) -> None:
        """Renew when due, until cancelled; a controller's refusal or absence is retried, capped."""
        backoff = Backoff(first_s=0.5, cap_s=RETRY_CAP_S)
        while True:
            if self.valid:
                self.ready.set()
            wait = self.due - self._clock()
            if wait > timedelta(0):
                await self._rest(min(wait.total_seconds(), LOOK_AGAIN_S))
                continue
            try:
                await self.renew()
            except IsthmusError as error:
                self.error = error.message
                level = _log.warning if self.valid else _log.error
                level(
                    "leaf_not_renewed", identity=str(self.spiffe_id), error=error.message, left=self._left()
                )
                await asyncio.sleep(backoff.delay_s())
            else:
                self.error = ""
                backoff.reset()

    async def renew(self) -> None:
        """Get, prove and install one new leaf; raises whatever stood in the way and changes nothing then."""
        wanted = self.wanted
        try:
            chain = await self._ask(wanted)
        except IsthmusError as error:
            if wanted == self.spiffe_id or self._is_fresh():
                raise
            _log.warning("identity_not_changed", wanted=str(wanted), error=error.message)
            wanted = self.spiffe_id  # The new home may be away for long; the old identity must not expire.
            chain = await self._ask(wanted)
        self.leaf.install(chain)
        if wanted != self.spiffe_id:
            _log.info("identity_changed", before=str(self.spiffe_id), identity=str(wanted))
        self.spiffe_id = wanted
        self._spread = random.uniform(RENEW_FROM, RENEW_TO)  # noqa: S311 - as above
        _log.info("leaf_renewed", identity=str(self.spiffe_id), until=self.leaf.not_after.isoformat())
        self._on_renewed()

    async def _ask(self, wanted: SpiffeId) -> tuple[bytes, ...]:
        reply = await self._sign(SignRequest(csr=self.leaf.create_csr(), identity=str(wanted)))
        proven = verify_chain(reply.chain, self._directory.bundles(), self._clock(), purpose="client")
        if proven != wanted:
            raise BadIdentityError(f"sign: the controller certified {proven}, expected {wanted}")
        return reply.chain

    def _is_fresh(self) -> bool:
        """True while the leaf, whatever it says, need not be renewed for its age."""
        return self.leaf.installed and self._clock() < self._renew_at()

    def _renew_at(self) -> datetime:
        current = self.leaf.current
        return current.not_before + (current.not_after - current.not_before) * self._spread

    async def _rest(self, seconds: float) -> None:
        """Sleep, at most until the directory says something new."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._directory.newer_than(self._directory.current.revision)

    def _left(self) -> str:
        if not self.leaf.installed:
            return "no leaf yet"
        left = self.leaf.not_after - self._clock()
        return f"{left.total_seconds():.0f} s" if left > timedelta(0) else "expired"


def signer(directory: DirectoryStore, cluster: str, identity: LeafIdentity) -> Sign:
    """Return the function that asks the controllers which sign for `cluster`, one after the other."""

    async def ask(request: SignRequest) -> SignReply:
        problems: list[str] = []
        domain = parse(request.identity).trust_domain
        for controller in signing_controllers(directory.current, cluster, domain):
            try:
                async with open_channel(controller, identity, directory) as channel:
                    return await sign(channel, request)
            except IsthmusError as error:
                problems.append(f"{controller.name}: {error.message}")
        raise UnavailableError(
            f"sign: {'; '.join(problems) or f'no controller of {domain} signs for {cluster}'}"
        )

    return ask
