"""What agents tell a controller of their cluster, and what the controller tells the catalog."""

import msgspec

from discovery.core.model import Change, Endpoint, EndpointKey


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """One message of an agent. A list may take many; `complete` is set on its last."""

    agent: str
    incarnation: int
    sequence: int  # The agent's own position after this message; no row in it is newer.
    put: tuple[Endpoint, ...] = ()
    remove: tuple[EndpointKey, ...] = ()
    complete: bool = False


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """What a declaration did: the rows that changed, and those that were refused, with the reason."""

    changes: tuple[Change, ...] = ()
    refused: tuple[tuple[EndpointKey, str], ...] = ()


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One batch for `PublishEndpoints`, and rows that the catalog would refuse, with the reason."""

    put: tuple[Endpoint, ...] = ()
    remove: tuple[tuple[EndpointKey, int, int], ...] = ()
    refused: tuple[tuple[EndpointKey, str], ...] = ()
    whole: bool = True  # Nothing that differs is left for another batch.
