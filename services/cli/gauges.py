"""What a process tells of itself on its metrics port."""

from http.client import HTTPConnection, HTTPException
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S: Final = 2.0
LAG: Final = "claimledger_stage_lag_records"
PARTITIONS: Final = "claimledger_stage_partitions"
OUTBOX: Final = "claimledger_outbox_rows"

Gauges = dict[tuple[str, str], int]
"""Values by name and stage; the stage is empty for what has none."""


def read_gauges(port: int) -> Gauges:
    """The three that are shown here; empty where nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except (OSError, HTTPException):
        return {}
    finally:
        connection.close()
    return {
        (sample.name, sample.labels.get("stage", "")): int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in {LAG, PARTITIONS, OUTBOX}
    }
