"""Consensus alone: four replicas order opaque 512-byte claims, with BLS and every sync, each offering a quarter.

First as much as their lanes take; then an open loop below that, which counts only where what is committed keeps up with
what is offered.
"""

import time
from pathlib import Path
from typing import Final

from tests.bench.network import replicas_alone, session_of, sleep_until

WARM_UP_S: Final = 4.0
WINDOW_S: Final = 8.0
FLOOD: Final = 100_000
KEEPS_UP: Final = 0.98
BACK_OFF: Final = 0.92
ATTEMPTS: Final = 5


def ordering_rate(run: Path) -> float:
    """The highest offered rate, in claims a second, with which commits kept up. Raises RuntimeError for none."""
    rate = int(_committed_rate(run, FLOOD))
    for _ in range(ATTEMPTS):
        committed = _committed_rate(run, rate)
        if committed >= rate * KEEPS_UP:
            return committed
        rate = int(rate * BACK_OFF)
    raise RuntimeError(f"commits did not keep up with {rate} claims a second")


def _committed_rate(run: Path, offered: int) -> float:
    """Claims a second that the slowest replica executed in the window, `offered` being the sum over the replicas."""
    environment = {
        "CLAIMLEDGER_REPLICA_CONTRACT": "opaque",
        "CLAIMLEDGER_REPLICA_FEED": "false",
        "CLAIMLEDGER_REPLICA_PUBLISH": "false",
        "CLAIMLEDGER_REPLICA_GENERATE_RATE": str(offered // 4),
    }
    with replicas_alone(run, environment) as processes:
        session = session_of(processes)
        addresses = [replica.address for replica in session.network.replicas]
        sleep_until(time.monotonic() + WARM_UP_S)
        began = time.monotonic()
        before = [session.replica_status(address).results_size for address in addresses]
        sleep_until(began + WINDOW_S)
        after = [session.replica_status(address).results_size for address in addresses]
        seconds = time.monotonic() - began
    return min(b - a for a, b in zip(before, after, strict=True)) / seconds
