"""Private loopback addresses for tests: those of the laboratories, which `chaos.lab.loopback` hands out."""

from chaos.lab.loopback import LOCK_PORT, LoopbackBlock, claim_block

__all__ = ["LOCK_PORT", "LoopbackBlock", "claim_block"]
