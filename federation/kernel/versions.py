"""The integers by which processes of different builds agree on what they may say.

Every hello carries `PROTOCOL_VERSION`, every command its schema version. A feature is on when the
lowest version among the live controllers has it. Versions N and N-1 work together.

History: 1 (2026-11) first protocol and schema.
"""

from collections.abc import Iterable

PROTOCOL_VERSION = 1
PROTOCOL_VERSION_MIN = 1
SCHEMA_VERSION = 1

# The newest command schema that a process of each protocol version can apply.
_SCHEMA_OF_PROTOCOL = {1: 1}


def speaks(version: int) -> bool:
    """True when a process of protocol `version` can talk to this one."""
    return version >= PROTOCOL_VERSION_MIN


def command_schema(live_protocols: Iterable[int]) -> int:
    """Return the schema to stamp on commands: the newest that every live controller can apply."""
    lowest = min((*live_protocols, PROTOCOL_VERSION))
    return _SCHEMA_OF_PROTOCOL[max(PROTOCOL_VERSION_MIN, lowest)]
