"""Learning from the catalog whom to talk to and whom to believe: for processes that follow it."""

import msgspec
import structlog

from discovery.core.tables import Tables
from federation.agent.directory import DirectoryStore
from federation.api.directory import build_directory
from federation.kernel.errors import IsthmusError

_log = structlog.get_logger("directory")


def learn_directory(store: DirectoryStore, tables: Tables) -> None:
    """Take over the catalog's directory if it says something else than the one that is held.

    One that must not replace it (nobody left to ask, unreadable roots) is logged and left alone.
    """
    try:
        fresh = build_directory(tables)
        held = store.current
        if msgspec.structs.replace(fresh, revision=held.revision) != held:
            # A controller that left takes its row, and perhaps the newest revision, with it.
            store.offer(msgspec.structs.replace(fresh, revision=tables.revision))
    except IsthmusError as error:
        _log.error("directory_not_taken", reason=error.message)
