"""Steps of claims into records for `status.raw`, by claim bucket: what every stage does with the steps that it reports."""

from collections.abc import Iterable
from typing import Final

from claimledger.events.v1 import events_pb2
from claims.status import event_id
from runtime.stage import Out
from runtime.topics import RAW_STATUS, bucket_of

MAX_EVENTS: Final = 500
"""Steps in one record."""


def status_records(
    payer: str, buckets: int, events: Iterable[events_pb2.StatusEvent], topic_prefix: str = ""
) -> list[Out]:
    """Batches for the payer's raw status topic; a claim's steps stay in their order."""
    groups: dict[int, list[events_pb2.StatusEvent]] = {}
    for event in events:
        groups.setdefault(bucket_of(event.claim_ref, buckets), []).append(event)
    return [
        Out(
            RAW_STATUS.name(payer, topic_prefix),
            bucket.to_bytes(4, "big"),
            events_pb2.StatusBatch(events=group[start : start + MAX_EVENTS]).SerializeToString(),
            RAW_STATUS.schema,
            event_id(group[start].claim_ref, group[start].version, group[start].step).hex(),
            partition=bucket,
        )
        for bucket, group in groups.items()
        for start in range(0, len(group), MAX_EVENTS)
    ]
