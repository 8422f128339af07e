"""One enrolled agent as a process, which may have a network of its own: it registers, and says with whom.

python -m tests.integration.mirror.agent_process FOLDER CLUSTER NAME ADDRESS
"""

import asyncio
import sys
from pathlib import Path

from federation.agent.registration import Registrar
from tests.integration.mirror.cluster import Agent

STATUS_FILE = "connected"  # In the agent's folder: the controllers that it has a stream to, by name.
WRITTEN_EVERY_S = 0.1


async def main(folder: Path, cluster: str, name: str, address: str) -> None:
    """Register until killed."""
    agent = Agent(folder, name, cluster, address)
    async with agent.registered() as registrar:
        while True:
            _write(folder, registrar)
            await asyncio.sleep(WRITTEN_EVERY_S)


def _write(folder: Path, registrar: Registrar) -> None:
    fresh = folder / f"{STATUS_FILE}.new"
    fresh.write_text(" ".join(sorted(name for name, one in registrar.streams.items() if one.connected)))
    fresh.replace(folder / STATUS_FILE)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
