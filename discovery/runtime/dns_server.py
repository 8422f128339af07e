"""The DNS process's component: one zone, answered on any number of addresses over UDP and TCP."""

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Sequence

from discovery.core.dns_zone import CompiledZone
from discovery.runtime.dns_sockets import RCODES, DnsCounters, ListenAddress, Tally, open_tcp, open_udp
from discovery.runtime.dns_tcp import TcpResponder
from discovery.runtime.dns_udp import UdpResponder


class DnsServer:
    """Answers on `addresses` from the zone that `zone_provider` returns; SERVFAIL while it returns None.

    The zone is asked for anew for each packet, from several threads, so that a process may exchange it
    whole. `run` blocks until cancelled and leaves no thread, socket or connection behind.
    """

    def __init__(
        self, addresses: Sequence[ListenAddress], zone_provider: Callable[[], CompiledZone | None]
    ) -> None:
        self.ready = asyncio.Event()
        self._addresses = tuple(addresses)
        self._zone_provider = zone_provider
        self._udp: tuple[UdpResponder, ...] = ()
        self._tcp: tuple[TcpResponder, ...] = ()

    async def run(self) -> None:
        """Open every socket, then answer.

        Raises `InvalidInputError` or `PreconditionError`, naming the address, if one cannot be opened, and
        `UnavailableError` if one breaks.
        """
        with contextlib.ExitStack() as opened:
            udp = [opened.enter_context(open_udp(address)) for address in self._addresses]
            tcp = [opened.enter_context(open_tcp(address)) for address in self._addresses]
            self._udp = tuple(UdpResponder(bound, self._zone_provider) for bound in udp)
            self._tcp = tuple(TcpResponder(listener, self._zone_provider) for listener in tcp)
            threads = opened.enter_context(
                concurrent.futures.ThreadPoolExecutor(max(1, len(udp)), thread_name_prefix="dns-udp")
            )
            # Leaving the executor waits for its threads, so they are told to stop first.
            for udp_responder in self._udp:
                opened.callback(udp_responder.stop)
            async with asyncio.TaskGroup() as tasks:
                for udp_responder in self._udp:
                    tasks.create_task(_run_in(threads, udp_responder.serve), name="dns-udp")
                for tcp_responder in self._tcp:
                    tasks.create_task(tcp_responder.run(), name="dns-tcp")
                self.ready.set()

    def counters(self) -> DnsCounters:
        """Return the counters as they are now; from any thread."""
        udp = [responder.tally for responder in self._udp]
        tcp = [responder.tally for responder in self._tcp]
        return DnsCounters(
            udp_replies=_sum_by_rcode(udp),
            tcp_replies=_sum_by_rcode(tcp),
            dropped=sum(tally.dropped for tally in (*udp, *tcp)),
            tcp_connections_open=sum(responder.open_count for responder in self._tcp),
            tcp_connections_accepted=sum(responder.accepted for responder in self._tcp),
            tcp_connections_evicted=sum(responder.evicted for responder in self._tcp),
        )


async def _run_in(threads: concurrent.futures.Executor, work: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(threads, work)


def _sum_by_rcode(tallies: Sequence[Tally]) -> tuple[int, ...]:
    return tuple(sum(tally.replies[rcode] for tally in tallies) for rcode in range(RCODES))
