"""A stage of the pipeline: one pure function from a record to records, and what its runners have in common.

The same `Stage` runs on bare aiokafka (`stage_runner.run_stage`) and on Faust (`faust_stage.run_faust_stage`). Either
gives this promise: a record is acknowledged only when everything that the function returned for it is confirmed by the
broker, and only as part of the contiguous prefix of its partition; so a record may come again, and none is skipped.

- `decode` and `apply` raise `DataError` for a record that can never succeed: it goes to `<topic>.dlq` and the stream goes
  on. A record at which they raise anything else is tried again by itself, from state that is built anew, and goes there too
  when it keeps failing (ADR 0022).
- What is no record's failure (`failing.SURROUNDINGS`: broker, files, peers) stops the worker without acknowledgement. To
  start it again is the job of whoever runs the process (`claimledger up`, systemd, Kubernetes, …).
- State per partition is opened when the partition's first record arrives, rebuilt from the stage's compacted state topic
  (same partition number, read to its end, record by record through `restore`), and closed on revocation and stop.
- Records of one partition are applied in order, one at a time.
Source: stack.md, Faust; architecture.md, Delivery.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from claims.quick import quick

S = TypeVar("S")
M = TypeVar("M")
Headers = tuple[tuple[str, bytes], ...]


class DataError(ValueError):
    """A record that cannot be processed however often it is tried. `kind` is a stable word for headers and metrics."""

    def __init__(self, message: str, kind: str = "undecodable") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Incoming:
    """A record as taken from Kafka, its value in clear."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Headers = ()
    timestamp_ms: int = 0

    def header(self, name: str) -> bytes | None:
        """The first header of that name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Out:
    """A record to produce. `value` is in clear; the runner seals it under the topic's key, bound to `schema`.

    `event_id` becomes `ce_id` and must be the same when the same input is applied again, so that consumers can drop the
    repeat. `partition` None lets Kafka hash the key; topics keyed by bucket name their partition. A state record of the
    stage goes to the partition that it was taken from. `value` None is a tombstone on a compacted topic.
    """

    topic: str
    key: bytes
    value: bytes | None
    schema: str
    event_id: str
    partition: int | None = None
    headers: Headers = field(default=())
    sealed: bool = True
    """False for topics that the table declares public."""


make_out = quick(Out)
"""For what goes out several times a claim."""


class Stage(Generic[S, M]):
    """What a service implements. S is the state of one partition, M what a record decodes to.

    `schemas` gives the schema of each topic that it reads, state topics included.
    """

    name: str
    """Consumer group and `ce_source`."""
    topics: Sequence[str]
    schemas: dict[str, str]

    def state_topic(self, topic: str) -> str | None:  # noqa: ARG002 - for stages that keep state
        """The compacted topic from which the state of `topic`'s partitions is rebuilt, if any."""
        return None

    def open_partition(self, topic: str, partition: int) -> S:
        """Fresh, empty state."""
        raise NotImplementedError

    def restore(self, state: S, record: Incoming) -> None:
        """Takes one record of the state topic into the state, in the topic's order; an empty value is a tombstone.

        Raises DataError for what it cannot read, and never for a tombstone.
        """

    def close_partition(self, topic: str, partition: int, state: S) -> None:
        """The partition is gone; drop what belongs to it."""

    def decode(self, record: Incoming) -> M:
        """Bytes to message. Raises DataError."""
        raise NotImplementedError

    async def prepare(self, messages: Sequence[M]) -> Sequence[M]:
        """The one place for I/O, such as a lookup over gRPC, for a whole batch; returns as many messages, in order.

        What it asks is no part of the record: retry what can pass, and raise one of SURROUNDINGS for what does not.
        """
        return messages

    def divide(self, record: Incoming) -> Sequence[bytes]:  # noqa: ARG002 - for stages whose records can be divided
        """Values of records that hold one part each of what this one holds, so that a bad part takes no good one along."""
        return ()

    def apply(self, state: S, record: Incoming, message: M) -> list[Out]:
        """The pure function. May change `state`. Raises DataError before it changes anything."""
        raise NotImplementedError


AnyStage = Stage[Any, Any]
