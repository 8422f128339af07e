"""Bugs of who stays with whom he chose once. The rules must notice every one."""

import asyncio
import itertools

from federation.replication.follower import PREFERRED_RETRY_S, Follower


class ComparesOnce(Follower):
    """Which controllers are preferred to the followed one is asked when that is chosen, and never again."""

    async def _wait_for_better(self, followed: str) -> None:
        better = list(itertools.takewhile(lambda one: one.name != followed, self._sources()))
        while True:
            await asyncio.sleep(PREFERRED_RETRY_S)
            for source in better:
                if await self._would_answer(source):
                    return
