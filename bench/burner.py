"""Burns a share of one core and does nothing else: what any other work beside the federation would take.

python -m bench.burner SHARE SECONDS
"""

import sys
import time

PERIOD_S = 0.02  # In each so much is burnt at one go, as by a batch.


def burn(share: float, seconds: float) -> None:
    """Spend `share` of a core for so long."""
    end_s = time.monotonic() + seconds
    while (began_s := time.monotonic()) < end_s:
        until_s = time.thread_time() + share * PERIOD_S
        while time.thread_time() < until_s:
            pass
        time.sleep(max(0.0, began_s + PERIOD_S - time.monotonic()))


if __name__ == "__main__":
    burn(float(sys.argv[1]), float(sys.argv[2]))
