"""`isthmus gateway`: an agent whose only workload is the east-west Envoy that it runs.

The gateway is an endpoint of `isthmus-system/eastwest`, ready while its Envoy is; it shows its system
identity and forwards by SNI what it cannot read.
"""

from pathlib import Path

from federation.agent.agent import Agent, run_until_told
from federation.agent.config import GatewayConfig
from federation.agent.enrollment import ensure_enrolled
from federation.agent.folder_lock import hold_folder
from federation.agent.workloads import gateway_proxy, gateway_workload
from federation.kernel.units import duration_ms


async def run_gateway(config: GatewayConfig, token: str | None) -> None:
    """Run a gateway until SIGTERM or SIGINT, which drains it; it enrolls first if it never did.

    Raises an `IsthmusError` for what makes running impossible.
    """
    data_dir = Path(config.data_dir).absolute()
    with hold_folder(data_dir):
        enrollment = await ensure_enrolled(token, "gateway", config.id, data_dir)
        gateway = Agent(
            enrollment,
            data_dir=data_dir,
            proxy=gateway_proxy(config, enrollment),
            workloads=[gateway_workload(config, enrollment)],
            metrics=config.metrics,
            drain_ms=duration_ms(config.drain),
        )
        await run_until_told(gateway)
