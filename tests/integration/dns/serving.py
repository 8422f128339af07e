"""A DNS server in a thread of the test's own process."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Self

from discovery.core.dns_zone import CompiledZone
from discovery.runtime.dns_server import DnsServer
from discovery.runtime.dns_sockets import ListenAddress

START_TIMEOUT_S = 30.0


class Serving:
    """Runs `DnsServer` while the context is open; re-raises what ended it."""

    def __init__(
        self, addresses: Sequence[ListenAddress], zone_provider: Callable[[], CompiledZone | None]
    ) -> None:
        self.server = DnsServer(addresses, zone_provider)
        self.failure: BaseException | None = None
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dns-under-test")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._settled.wait(START_TIMEOUT_S)
        if self.failure is not None:
            self._thread.join()
            raise self.failure
        return self

    def __exit__(self, *_exception: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(START_TIMEOUT_S)
        assert not self._thread.is_alive(), "the server did not stop"
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self.failure = error
        self._settled.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._task = tasks.create_task(self.server.run())
                tasks.create_task(self._tell_ready())
        except BaseExceptionGroup as group:
            if len(group.exceptions) != 1:
                raise
            raise group.exceptions[0] from None

    async def _tell_ready(self) -> None:
        waiting = asyncio.current_task()
        self._task.add_done_callback(lambda _task: waiting.cancel())
        await self.server.ready.wait()
        self._settled.set()
