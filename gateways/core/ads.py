"""One delta ADS stream as a state machine: requests and changes in, responses out.

Written after what Envoy 1.40 was seen to do, which the protocol's text leaves open:

* A cluster that is updated does not ask again for its endpoints, and stays in warming for 15 s unless they
  are sent again after it, changed or not.
* The ACK of clusters is withheld while one of them warms; a missing ACK is no dead proxy.
* A NACK is partial: the good resources of the response are in force. Its text names the bad ones; those are
  not sent again before they have a new version. Where it names none, they are sent one by one.
* An endpoint assignment or route that does not exist must be answered with its removal, or Envoy waits 15 s;
  a secret that does not exist must not be answered, or a listener starts without certificate.
* After a reconnect Envoy says what it has: what is equal is not sent, what is gone is removed.

Order (invariant G1): new routes and listeners wait until new clusters are acknowledged, that is warm;
removals wait until what could refer to the removed is acknowledged. At most one response per type is
unacknowledged; changes meanwhile merge. Bounds: TYPES_MAX types, NAMES_MAX names, RESPONSE_BYTES_MAX.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from federation.kernel.errors import InvalidInputError, LimitExceededError
from gateways.core.wire import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    ORDER,
    ROUTES,
    SECRET,
    SHORT_NAMES,
    XdsResource,
    join_response,
)

TYPES_MAX = 16
NAMES_MAX = 200_000  # Names of one type that one stream may subscribe to or say that it has.
RESPONSE_BYTES_MAX = 2 * 1024 * 1024  # The rest follows after the ACK.
ERROR_CHARACTERS_KEPT_MAX = 2_000

# A resource of the key type is removed only once nothing of these types is unsent or unacknowledged.
_REFERRERS: dict[str, tuple[str, ...]] = {
    CLUSTER: (ROUTES, LISTENER),
    ENDPOINTS: (CLUSTER,),
    ROUTES: (LISTENER,),
    SECRET: (LISTENER, CLUSTER),
}
# A resource of the key type is sent only once everything of these types is acknowledged.
_REFERENTS: dict[str, tuple[str, ...]] = {LISTENER: (CLUSTER,), ROUTES: (CLUSTER,)}

AckStatus: TypeAlias = Literal["waiting", "acked", "nacked"]


class Lookup(Protocol):
    """Where the stream finds what its proxy should have."""

    def get(self, type_url: str, name: str) -> XdsResource | None:
        """One resource, or None."""

    def names(self, type_url: str) -> Iterable[str]:
        """The names of all resources of a type."""


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """One message to the proxy."""

    type_url: str
    nonce: str
    resources: tuple[XdsResource, ...]
    removed: tuple[str, ...]

    def encode(self) -> bytes:
        """The serialized `DeltaDiscoveryResponse`."""
        return join_response(self.type_url, self.nonce, self.resources, self.removed)


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy said about one response.

    `rejected` names the resources that this put into quarantine; `standing` is all that the proxy now has
    against the type, `NAME: why; ...`, and empty once it is content.
    """

    type_url: str
    nonce: str
    error: str = ""
    rejected: tuple[str, ...] = ()
    standing: str = ""


class TypeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where one type stands, for people."""

    type_url: str
    status: AckStatus
    sent: int  # Resources that the proxy has.
    error: str
    quarantined: tuple[str, ...]


class _InFlight(msgspec.Struct, frozen=True, kw_only=True):
    nonce: str
    before: Mapping[str, str | None]  # Version that the proxy had of each resource sent.
    versions: Mapping[str, str]


class _Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A resource in quarantine: the version that the proxy refused, and why."""

    version: str
    error: str


class _TypeState:
    """What one proxy wants and has of one type."""

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.started = False
        self.greeted = False  # The first response, which a wildcard waits for even if empty, was sent.
        self.wildcard = False
        self.subscribed: set[str] = set()
        self.has: dict[str, str] = {}  # Version by name, as the proxy told or we sent.
        self.look_at: set[str] = set()  # Names that may differ from what the proxy has.
        self.unanswered: set[str] = set()  # Subscribed by name, not yet answered.
        self.resend: set[str] = set()  # To be sent even if unchanged.
        self.departing: set[str] = set()  # To be removed once nothing refers to them.
        self.suspects: list[str] = []  # After a NACK that named nobody: to be sent alone.
        self.quarantine: dict[str, _Refusal] = {}
        self.in_flight: _InFlight | None = None
        self.last_nonce = ""
        self.error = ""  # Of a refusal that named nothing.

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.subscribed

    @property
    def standing(self) -> str:
        """All that the proxy has against this type."""
        refusals = [f"{name}: {refusal.error}" for name, refusal in sorted(self.quarantine.items())]
        return ("; ".join(refusals) or self.error)[:ERROR_CHARACTERS_KEPT_MAX]

    @property
    def current(self) -> bool:
        """Everything new was sent and acknowledged."""
        return self.in_flight is None and not self.look_at and not self.suspects

    @property
    def settled(self) -> bool:
        """So was every removal."""
        return self.current and not self.departing


class AdsStream:
    """The server's side of one stream. Pure: the caller moves bytes and calls `take` after every input."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._types: dict[str, _TypeState] = {}
        self._nonce = 0

    def on_request(self, request: Any) -> Ack | None:
        """Take in a `DeltaDiscoveryRequest`; return what it acknowledged, if anything.

        Raises InvalidInputError without a type, LimitExceededError beyond the bounds: the stream ends.
        """
        state = self._state(request.type_url)
        ack = self._on_nonce(state, request) if request.response_nonce else None
        if not state.started:
            state.started = True
            self._begin(state, request)
        elif request.resource_names_subscribe:
            # Asked for again: Envoy has forgotten it, whatever we remember.
            state.resend.update(name for name in request.resource_names_subscribe if name != "*")
        self._subscribe(state, request.resource_names_subscribe)
        self._unsubscribe(state, request.resource_names_unsubscribe)
        return ack

    def on_change(self, changed: Mapping[str, Iterable[str]]) -> None:
        """Note names, by type, whose resource may have changed, appeared or gone."""
        for type_url, names in changed.items():
            state = self._types.get(type_url)
            if state is not None:
                state.look_at.update(name for name in names if state.wants(name) or name in state.has)

    def retry(self, type_url: str) -> None:
        """Send what the proxy rejected of a type once more: what it objected to may have gone away."""
        state = self._types.get(type_url)
        if state is not None:
            state.look_at.update(name for name in state.quarantine if state.wants(name))
            state.quarantine.clear()

    def take(self) -> Iterator[Response]:
        """Yield what may be sent now, in the order in which it must be written."""
        order = (*ORDER, *(self._types.keys() - set(ORDER)))
        # A type that turns out to have nothing to send may free another that came before it.
        for _ in range(len(_REFERRERS)):
            for type_url in order:
                state = self._types.get(type_url)
                if state is not None and state.started and state.in_flight is None:
                    response = self._respond(state)
                    if response is not None:
                        yield response

    @property
    def current(self) -> bool:
        """Everything new was sent and answered, but for removals that wait for what refers to them."""
        return all(state.current for state in self._types.values())

    def status(self) -> tuple[TypeStatus, ...]:
        """Where every type stands."""
        return tuple(
            TypeStatus(
                type_url=state.type_url,
                status="waiting" if state.in_flight else "nacked" if state.standing else "acked",
                sent=len(state.has),
                error=state.standing,
                quarantined=tuple(sorted(state.quarantine)),
            )
            for _, state in sorted(self._types.items())
        )

    def _state(self, type_url: str) -> _TypeState:
        if not type_url:
            raise InvalidInputError("xds request without type_url: only aggregated streams are served")
        state = self._types.get(type_url)
        if state is None:
            if len(self._types) >= TYPES_MAX:
                raise LimitExceededError(
                    f"xds request for {type_url[:200]!r}: the stream already has {TYPES_MAX} types"
                )
            state = self._types[type_url] = _TypeState(type_url)
        return state

    def _begin(self, state: _TypeState, request: Any) -> None:
        _check_count(state, len(request.initial_resource_versions), "initial_resource_versions")
        state.has.update(request.initial_resource_versions)
        state.look_at.update(state.has)
        if not request.resource_names_subscribe:
            self._subscribe(state, ("*",))

    def _subscribe(self, state: _TypeState, names: Iterable[str]) -> None:
        for name in names:
            if name == "*":
                state.wildcard = True
                state.look_at.update(self._lookup.names(state.type_url))
            else:
                state.subscribed.add(name)
                state.look_at.add(name)
                state.unanswered.add(name)
        _check_count(state, len(state.subscribed), "resource_names_subscribe")

    def _unsubscribe(self, state: _TypeState, names: Iterable[str]) -> None:
        for name in names:
            if name == "*":
                state.wildcard = False
            state.subscribed.discard(name)
            state.unanswered.discard(name)
            state.resend.discard(name)
            if not state.wildcard:
                state.has.pop(name, None)
                state.look_at.discard(name)

    def _on_nonce(self, state: _TypeState, request: Any) -> Ack | None:
        """Match an answer to its response."""
        nonce, answered = request.response_nonce, state.in_flight
        if answered is None or answered.nonce != nonce:
            return self._on_late_answer(state, request)
        state.in_flight = None
        if not request.HasField("error_detail"):
            state.error = ""
            for name in answered.versions:
                state.quarantine.pop(name, None)
            return Ack(type_url=state.type_url, nonce=nonce, standing=state.standing)
        state.error = _error_text(request)
        rejected = self._rejected(state, answered)
        for name in rejected:
            state.quarantine[name] = _Refusal(version=answered.versions[name], error=state.error)
            _restore(state.has, name, answered.before[name])
        return Ack(
            type_url=state.type_url,
            nonce=nonce,
            error=state.error,
            rejected=rejected,
            standing=state.standing,
        )

    def _on_late_answer(self, state: _TypeState, request: Any) -> Ack | None:
        """Take a relay's word for what its Envoy said later about what the relay had accepted.

        The relay keeps the resource, so there is nothing to send again. Anything else is stale.
        """
        nonce = request.response_nonce
        if state.in_flight is not None or nonce != state.last_nonce:
            return None
        refused = request.HasField("error_detail")
        if not refused and not state.standing:
            return None
        state.error = _error_text(request) if refused else ""
        rejected = tuple(sorted(name for name in state.has if _is_named(name, state.error)))
        state.quarantine = {name: _Refusal(version=state.has[name], error=state.error) for name in rejected}
        return Ack(
            type_url=state.type_url,
            nonce=nonce,
            error=state.error,
            rejected=rejected,
            standing=state.error,
        )

    def _rejected(self, state: _TypeState, answered: _InFlight) -> tuple[str, ...]:
        """The resources at fault: named by the text, or the only one sent; else none yet, but suspects."""
        named = tuple(name for name in answered.versions if _is_named(name, state.error))
        if named or len(answered.versions) == 1:
            return named or tuple(answered.versions)
        for name in answered.versions:
            _restore(state.has, name, answered.before[name])
        state.suspects = sorted({*state.suspects, *answered.versions})
        return ()

    def _respond(self, state: _TypeState) -> Response | None:
        owes_greeting = state.wildcard and not state.greeted
        if not (state.suspects or state.look_at or state.departing or owes_greeting):
            return None
        if not all(other.current for other in self._others(_REFERENTS, state)):
            return None
        if state.suspects:
            suspect = state.suspects.pop(0)
            return self._send(state, {suspect} if state.wants(suspect) else set(), set())
        send, remove, state.look_at = self._sort(state)
        # Only what the proxy has can be referred to; the rest answers a subscription.
        state.departing = {name for name in remove if name in state.has}
        if send or not all(other.settled for other in self._others(_REFERRERS, state)):
            remove -= state.departing
        if not (send or remove or owes_greeting):
            return None
        return self._send(state, send, remove)

    def _sort(self, state: _TypeState) -> tuple[set[str], set[str], set[str]]:
        """Split the names to look at into those to send, to remove, and to keep for the next response."""
        send: set[str] = set()
        remove: set[str] = set()
        wait: set[str] = set()
        size_bytes = 0
        for name in sorted(state.look_at | state.departing):
            resource = self._lookup.get(state.type_url, name) if state.wants(name) else None
            if resource is None:
                if name in state.has or (name in state.unanswered and state.type_url != SECRET):
                    remove.add(name)
            elif name in state.quarantine and state.quarantine[name].version == resource.version:
                state.unanswered.discard(name)
            elif state.has.get(name) != resource.version or name in state.resend:
                (send if size_bytes < RESPONSE_BYTES_MAX else wait).add(name)
                size_bytes += len(resource.wire)
            else:
                state.unanswered.discard(name)
        if state.type_url == SECRET and not state.wildcard:
            # Envoy goes on with a secret that is taken away; saying so only confuses its listeners.
            for name in remove:
                state.has.pop(name, None)
            remove = set()
        return send, remove, wait

    def _send(self, state: _TypeState, send: set[str], remove: set[str]) -> Response:
        resources = [
            resource
            for name in sorted(send)
            if (resource := self._lookup.get(state.type_url, name)) is not None
        ]
        self._nonce += 1
        state.greeted = True
        state.last_nonce = str(self._nonce)
        state.in_flight = _InFlight(
            nonce=state.last_nonce,
            before={resource.name: state.has.get(resource.name) for resource in resources},
            versions={resource.name: resource.version for resource in resources},
        )
        if state.type_url == CLUSTER:
            self._resend_endpoints(resource.name for resource in resources if resource.name in state.has)
        for resource in resources:
            state.has[resource.name] = resource.version
            state.unanswered.discard(resource.name)
            state.resend.discard(resource.name)
        for name in remove:
            state.has.pop(name, None)
            state.unanswered.discard(name)
            state.departing.discard(name)
            state.quarantine.pop(name, None)
        return Response(
            type_url=state.type_url,
            nonce=state.in_flight.nonce,
            resources=tuple(resources),
            removed=tuple(sorted(remove)),
        )

    def _resend_endpoints(self, updated_clusters: Iterable[str]) -> None:
        """Send the endpoints of updated clusters again, now or when their type is first asked for.

        An assignment has the name of its cluster.
        """
        names = {name for name in updated_clusters if self._lookup.get(ENDPOINTS, name) is not None}
        if names:
            state = self._state(ENDPOINTS)
            state.resend |= names
            state.look_at |= {name for name in names if state.wants(name)}

    def _others(self, relation: Mapping[str, tuple[str, ...]], state: _TypeState) -> Iterator[_TypeState]:
        for type_url in relation.get(state.type_url, ()):
            other = self._types.get(type_url)
            if other is not None:
                yield other


def _check_count(state: _TypeState, count: int, field: str) -> None:
    if count > NAMES_MAX:
        type_name = SHORT_NAMES.get(state.type_url, state.type_url[:200])
        raise LimitExceededError(
            f"xds request for {type_name}: {field} has {count} names, at most {NAMES_MAX}"
        )


def _error_text(request: Any) -> str:
    return request.error_detail.message[:ERROR_CHARACTERS_KEPT_MAX] or "rejected without a reason"


def _restore(has: dict[str, str], name: str, version: str | None) -> None:
    if version is None:
        has.pop(name, None)
    else:
        has[name] = version


def _is_named(name: str, text: str) -> bool:
    """Whether an error such as `Error adding/updating cluster(s) NAME: why, NAME: why` names a resource.

    Names are prefixes of each other, so both ends are checked.
    """
    return name in text and re.search(rf"(?:^|[\s,'\"]){re.escape(name)}(?=[:,'\"\s]|$)", text) is not None
