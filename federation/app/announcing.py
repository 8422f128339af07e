"""A controller tells the federation where it is now, and which protocol it speaks."""

import asyncio

import msgspec
import structlog

from discovery.core.commands import Put
from discovery.core.kinds import decode_spec
from discovery.core.model import ResourceKey
from discovery.core.specs import ControllerSpec
from federation.api.proposer import Proposer
from federation.api.reading import CatalogReader
from federation.kernel.errors import IsthmusError

RETRY_S = 2.0

_log = structlog.get_logger("announcing")


async def announce(name: str, wanted: ControllerSpec, *, catalog: CatalogReader, proposer: Proposer) -> None:
    """Return when the catalog has this of the controller `name`; tries until then."""
    key = ResourceKey("", "Controller", "", name)
    while True:
        row = catalog.tables.resource(key)
        if row is not None and decode_spec("Controller", row.spec, where=str(key)) == wanted:
            return
        try:
            await proposer.write(Put(key=key, spec=msgspec.json.encode(wanted)))
        except IsthmusError as error:
            _log.warning("not_announced", reason=error.message)
            await asyncio.sleep(RETRY_S)
