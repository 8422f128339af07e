"""Runs an agent or gateway as its own process: KIND CONFIG [TOKEN], exit status as the command's."""

import asyncio
import sys
from pathlib import Path

from federation.agent.agent import run_agent
from federation.agent.config import AgentConfig, GatewayConfig
from federation.agent.gateway import run_gateway
from federation.kernel.configfile import decode_config
from federation.kernel.errors import IsthmusError

if __name__ == "__main__":
    kind, path, *rest = sys.argv[1:]
    text = Path(path).read_text()
    token = rest[0] if rest else None
    try:
        if kind == "agent":
            asyncio.run(run_agent(decode_config(text, AgentConfig, path=path), token))
        else:
            asyncio.run(run_gateway(decode_config(text, GatewayConfig, path=path), token))
    except IsthmusError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(1)
