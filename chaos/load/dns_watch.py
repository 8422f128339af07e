"""Asks the DNS processes of a laboratory over and over, and remembers what went wrong."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import dns.exception
import dns.message
import dns.query
import dns.rcode
from msgspec import Struct

from chaos.lab import topology
from chaos.lab.federation import Lab

_PERIOD_S = 0.05
_TIMEOUT_S = 2.0
FAILURES_SHOWN_MAX = 3
WATCHED_SERVICE = "catalogue"


class Check(Struct, frozen=True, kw_only=True, rename="camel"):
    """Something that was shown beside the load."""

    name: str
    passed: bool
    detail: str


class DnsWatch:
    """Asks every cluster's DNS process in turn, in a thread, within a `with` block."""

    def __init__(self, lab: Lab, clusters: Sequence[str], service: str = WATCHED_SERVICE) -> None:
        self._lab = lab
        self._service = service
        self._left_out: set[str] = set()
        self._turn = threading.Lock()  # Held for one question, so that none is on its way to a victim.
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dns-watch", daemon=True)
        self.asked = Counter(dict.fromkeys(clusters, 0))
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        """Begin to ask."""
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join()

    @contextmanager
    def without(self, cluster: str) -> Iterator[None]:
        """Leave out the process that is killed and started again within the block."""
        with self._turn:
            self._left_out.add(cluster)
        yield
        with self._turn:
            self._left_out.discard(cluster)

    def check(self, name: str) -> Check:
        """Every process was asked, and each answered every time."""
        counts = ", ".join(f"{cluster} {count}" for cluster, count in self.asked.items())
        failed = (
            f"{len(self.failures)} failed {self.failures[:FAILURES_SHOWN_MAX]}"
            if self.failures
            else "0 failed"
        )
        return Check(
            name=name,
            passed=not self.failures and all(self.asked.values()),
            detail=f"questions: {counts}; {failed}",
        )

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            for cluster in self.asked:
                with self._turn:
                    if cluster in self._left_out:
                        continue
                    problem = ask_dns(self._lab, cluster, self._service)
                    self.asked[cluster] += 1
                if problem:
                    self.failures.append(f"{cluster}: {problem}")


def ask_dns(lab: Lab, cluster: str, service: str, *, timeout_s: float = _TIMEOUT_S) -> str:
    """Ask the DNS process of a cluster for a service; return what was wrong, or an empty text."""
    try:
        answer = _ask(lab, cluster, service, timeout_s)
    except (dns.exception.DNSException, OSError) as error:
        return f"{type(error).__name__}: {error}"
    if answer.rcode() != dns.rcode.NOERROR or not answer.answer:
        return f"{dns.rcode.to_text(answer.rcode())} with {len(answer.answer)} answers"
    return ""


def resolve(lab: Lab, cluster: str, service: str) -> tuple[str, ...]:
    """Return the addresses by which a cluster knows a service, sorted; none where DNS has no answer."""
    try:
        answer = _ask(lab, cluster, service, _TIMEOUT_S)
    except (dns.exception.DNSException, OSError):
        return ()
    return tuple(sorted(str(record) for records in answer.answer for record in records))


def _ask(lab: Lab, cluster: str, service: str, timeout_s: float) -> dns.message.Message:
    name = f"{service}.{topology.NAMESPACE}.svc.clusterset.local."
    question = dns.message.make_query(name, "A")
    with lab.place.inside(cluster):
        plan = lab.clusters[cluster]
        return dns.query.udp(question, plan.dns, port=plan.dns_port, timeout=timeout_s)
