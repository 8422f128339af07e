"""`python -m tests.support.another_clock DAYS MODULE ARGUMENT...`: a module as on a machine whose wall clock is off.

What Python code asks for the wall clock gets it with DAYS added; waits and timeouts go by another clock and are as ever.
TLS libraries ask the kernel themselves, so they let certificates pass that this clock finds expired: what judges them
then is our own verifier.
"""

import runpy
import sys
import time
from datetime import datetime, timedelta, tzinfo

import certs.runtime.clock

DAY_S = 86_400


def set_clocks(days: int) -> None:
    """Move every clock of this process that our code asks for the time of day."""
    true_s, true_ns = time.time, time.time_ns
    time.time = lambda: true_s() + days * DAY_S
    time.time_ns = lambda: true_ns() + days * DAY_S * 1_000_000_000

    class Moved(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # a true datetime
            return datetime.now(tz) + timedelta(days=days)

    vars(certs.runtime.clock)["datetime"] = Moved  # The one place that asks a datetime.


if __name__ == "__main__":
    set_clocks(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
