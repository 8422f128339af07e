"""The integers by which processes of different builds agree on what they may say.

Every hello carries `PROTOCOL_VERSION`, every command its schema version. A feature is on when the
lowest version among the live controllers has it. Versions N and N-1 work together.

History: 1 (2026-11) first protocol and schema. 2 (2026-11) stricter rules for rows: poisoned addresses,
look-alike names, reserved names, labels, quotas. Commands of schema 1 are applied by the rules of then, so
that every member makes the same of an old journal.
"""

from collections.abc import Iterable

PROTOCOL_VERSION = 2
PROTOCOL_VERSION_MIN = 1
SCHEMA_VERSION = 2
STRICT_SCHEMA = 2  # From here on the stricter rules hold.

# The newest command schema that a process of each protocol version can apply.
_SCHEMA_OF_PROTOCOL = {1: 1, 2: 2}


def speaks(version: int) -> bool:
    """True when a process of protocol `version` can talk to this one."""
    return version >= PROTOCOL_VERSION_MIN


def command_schema(live_protocols: Iterable[int]) -> int:
    """Return the schema to stamp on commands: the newest that every live controller can apply."""
    lowest = min((*live_protocols, PROTOCOL_VERSION))
    return _SCHEMA_OF_PROTOCOL[max(PROTOCOL_VERSION_MIN, lowest)]
