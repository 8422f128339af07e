"""The disk copy of a relay store: what an Envoy starts from while no controller can be reached.

One file of mode 0600: a magic line, the SHA-256 of the rest, then MessagePack. It names the proxy that it
belongs to; a file of another proxy, or one that is damaged, is moved aside and not used. Secrets made by
the agent are not in it.
"""

import asyncio
import hashlib
import itertools
import os
import threading
import time
from pathlib import Path

import msgspec
import structlog

from federation.kernel.codec import MALFORMED
from federation.kernel.errors import CorruptError
from gateways.core.wire import ORDER, XdsResource
from gateways.runtime.relay_store import RelayStore

MAGIC = b"isthmus-xds-cache-1\n"
FILE_BYTES_MAX = 256 * 1024 * 1024
# A burst of changes costs one write; a process killed within it starts from the copy before the burst.
DEBOUNCE_S = 0.2

_log = structlog.get_logger(__name__)


class _Content(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    proxy_id: str
    saved_ms: int  # Wall clock, to say how old the copy is; nothing depends on it.
    resources: tuple[XdsResource, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Content)


class RelayCache:
    """Keeps `path` up to date with the store. `run` blocks until cancelled, then writes a last time."""

    def __init__(self, store: RelayStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._copies = itertools.count(1)
        self._newest = 0  # Number of the newest copy written.
        self._writing = threading.Lock()

    def load(self) -> bool:
        """Fill the store from the file; return whether there was a good one. A bad one is moved aside."""
        try:
            content = read_cache(self._path, self._store.proxy_id)
        except FileNotFoundError:
            return False
        except (CorruptError, OSError) as error:
            aside = self._path.with_name(self._path.name + ".bad")
            _log.error("configuration on disk not used", reason=str(error), moved_to=str(aside))
            self._path.replace(aside)
            return False
        self._store.load(content.resources)
        age_s = max(0, int(time.time()) - content.saved_ms // 1_000)
        _log.info("configuration from disk", resources=len(content.resources), age_s=age_s)
        return True

    async def run(self) -> None:
        """Write the file after each change."""
        try:
            while True:
                await self._store.changed.wait()
                if self._path.exists():
                    await asyncio.sleep(DEBOUNCE_S)
                else:  # Without any copy there is nothing to start from: the first one does not wait.
                    await self._store.ready.wait()
                await self.save()
        finally:
            if self._store.changed.is_set():
                self._write()

    async def save(self) -> None:
        """Write the file now, off the event loop."""
        if self._store.ready.is_set():
            self._store.changed.clear()
            await asyncio.to_thread(self._put, self._encode(), next(self._copies))

    def _write(self) -> None:
        if self._store.ready.is_set():
            self._put(self._encode(), next(self._copies))

    def _encode(self) -> bytes:
        content = _Content(
            proxy_id=self._store.proxy_id,
            saved_ms=time.time_ns() // 1_000_000,
            resources=tuple(self._store.remote_resources()),
        )
        return _encoder.encode(content)

    def _put(self, body: bytes, number: int) -> None:
        """Replace the file. A write that was cancelled goes on in its thread: it must not undo a later one."""
        with self._writing:
            if number > self._newest:
                self._newest = number
                self._replace(body)

    def _replace(self, body: bytes) -> None:
        temporary = self._path.with_name(self._path.name + ".tmp")
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(MAGIC + hashlib.sha256(body).digest() + body)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self._path)


def read_cache(path: Path, proxy_id: str) -> _Content:
    """Return the checked content of a cache file.

    Raises FileNotFoundError, or CorruptError saying what is wrong with it.
    """
    size_bytes = path.stat().st_size
    if size_bytes > FILE_BYTES_MAX:
        raise CorruptError(f"{path} has {size_bytes} bytes, at most {FILE_BYTES_MAX} are read")
    raw = path.read_bytes()
    if not raw.startswith(MAGIC):
        raise CorruptError(f"{path} does not begin as an xds cache of this version does")
    checksum, body = raw[len(MAGIC) :][:32], raw[len(MAGIC) + 32 :]
    if hashlib.sha256(body).digest() != checksum:
        raise CorruptError(f"{path} fails its checksum")
    try:
        content = _decoder.decode(body)
    except MALFORMED as error:
        raise CorruptError(f"{path}: {error}") from error
    if content.proxy_id != proxy_id:
        raise CorruptError(f"{path} belongs to proxy {content.proxy_id!r}, not to {proxy_id!r}")
    foreign = {resource.type_url for resource in content.resources} - set(ORDER)
    if foreign:
        raise CorruptError(f"{path} has resources of unknown types {', '.join(sorted(foreign))}")
    return content
