"""A worker process for the tests of lost records: `python stage_program.py '<json>'`.

The stage copies each record to another topic. `away_once` names a payload at which the first process that sees it finds
something away (a marker file remembers it); payloads that begin with `fail` make it raise after it has spoilt its state, until
the file `repaired` is there, those that begin with `large` give more than a record holds; those with a `+` hold several, to be divided; `slow_s` is how long each record takes. Attempts
follow each other without pauses.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from runtime import stage_core
from runtime.kafka import MAX_RECORD_BYTES
from runtime.log import configure_logging
from runtime.process import run_process
from runtime.settings import Settings
from runtime.stage import DataError, Incoming, Out, Stage
from runtime.stage_runner import run_stage
from runtime.topic_keys import TopicKeys

SCHEMA = "test.Payload"


class Copy(Stage[list[bytes], bytes]):
    """Copies records, remembering what it saw."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.name = plan["group"]
        self.topics = [plan["source"]]
        self.schemas = {plan["source"]: SCHEMA, plan["state"]: SCHEMA}
        self.plan = plan

    def state_topic(self, topic: str) -> str | None:
        return str(self.plan["state"])

    def open_partition(self, topic: str, partition: int) -> list[bytes]:
        return []

    def restore(self, state: list[bytes], record: Incoming) -> None:
        if record.value.startswith(b"poison"):
            raise DataError("poison")
        if record.value:
            state.append(record.value)

    def decode(self, record: Incoming) -> bytes:
        if any(part.startswith(b"poison") for part in record.value.split(b"+")):
            raise DataError("poison")
        return record.value

    def divide(self, record: Incoming) -> list[bytes]:
        return record.value.split(b"+")

    def apply(self, state: list[bytes], record: Incoming, message: bytes) -> list[Out]:
        marker = Path(self.plan["marker"])
        if message == self.plan["away_once"].encode() and not marker.exists():
            marker.touch()
            raise ConnectionError("planted")
        time.sleep(self.plan["slow_s"])
        state.append(message)
        if any(part.startswith(b"fail") for part in message.split(b"+")) and not Path(self.plan["repaired"]).exists():
            raise KeyError(f"what the claim {message!r} says")
        if message.startswith(b"large") and not Path(self.plan["repaired"]).exists():
            message += bytes(MAX_RECORD_BYTES)
        seen = str(len(state)).encode()
        event_id = f"{record.topic}/{record.partition}/{record.offset}"
        return [
            Out(self.plan["sink"], message, message, SCHEMA, event_id, 0, (("seen", seen),)),
            Out(self.plan["state"], message, message, SCHEMA, event_id, record.partition),
        ]


def topic_keys(directory: Path, private: bytes) -> TopicKeys:
    """Keys that this one test service may open."""
    key = X25519PrivateKey.from_private_bytes(private)
    public = key.public_key().public_bytes_raw().hex()
    return TopicKeys(directory, "test/test", key, lambda _: {"test/test": public})


def main() -> None:
    plan = json.loads(sys.argv[1])
    stage_core.PAUSES_S = (0.0,) * len(stage_core.PAUSES_S)  # type: ignore[misc]
    keys = topic_keys(Path(plan["keys"]), bytes.fromhex(plan["private"]))
    stage = Copy(plan)
    if plan["runner"] == "faust":
        from runtime.faust_stage import run_faust_stage

        configure_logging("test")
        run_faust_stage(stage, kafka=plan["kafka"], keys=keys, data=plan["data"])
        return

    async def serve(stop: asyncio.Event) -> None:
        await run_stage(stage, kafka=plan["kafka"], keys=keys, stop=stop)

    run_process("test", Settings(), serve)


if __name__ == "__main__":
    main()
