"""dlq list, show, replay: records that could not be processed, and their way back."""

import asyncio
import re
from typing import Annotated, Any

import typer

from cli.options import RUN, Json, Kafka, RunDirectory
from cli.output import Output, when
from cli.session import UsageError, reach_kafka, read_network
from runtime.dlq import DeadLetter, list_dead_letters, replay_dead_letters
from runtime.kafka import make_producer
from runtime.network import Network, organisation_directory
from runtime.tenant_keys import service_keys
from runtime.topic_keys import TopicKeys, recipients_of

SHOWN_BYTES = 512
ALL = "all"

dlq = typer.Typer(no_args_is_help=True, help="Records that could not be processed.")
Positions = Annotated[list[str], typer.Argument(help="positions as `dlq list` shows them, or `all`")]
TopicPattern = Annotated[str, typer.Option("--topic", help="only topics whose name holds this")]


class LetterKeys(TopicKeys):
    """Opens each topic's letters with the key of its first reader whose key lies in this run directory."""

    def __init__(self, network: Network, run: Any) -> None:
        self._run = run
        self._network = network
        self._recipients = recipients_of(network)
        self._opened: dict[str, TopicKeys] = {}

    def open(self, topic: str, key: bytes | None, schema: str, value: bytes, headers: Any) -> bytes:
        return self._of(topic).open(topic, key, schema, value, headers)

    def _of(self, topic: str) -> TopicKeys:
        for name in self._recipients(topic):
            organisation, _, service = name.partition("/")
            if name in self._opened:
                return self._opened[name]
            if (organisation_directory(self._run, organisation) / f"{service}.hpke").exists():
                return self._opened.setdefault(name, service_keys(self._run, self._network, organisation, service))
        raise UsageError(f"no key under {self._run}/orgs opens {topic}")


@dlq.command("list")
def list_letters(topic: TopicPattern = "", run: RunDirectory = RUN, kafka: Kafka = "", as_json: Json = False) -> None:
    """All dead letters, oldest first."""
    network = read_network(run)
    letters = asyncio.run(_letters(network, run, kafka, topic))
    rows = [
        {
            "position": letter.position,
            "time": when(letter.time_ms),
            "type": letter.type,
            "stage": letter.stage,
            "replayed": letter.replayed,
            "reason": letter.reason[:100],
        }
        for letter in letters
    ]
    Output(as_json=as_json).table("dead letters", rows, empty="none")


@dlq.command()
def show(position: str, run: RunDirectory = RUN, kafka: Kafka = "", as_json: Json = False) -> None:
    """Everything known of one dead letter; its value is sealed and shown as far as its beginning."""
    network = read_network(run)
    letters = asyncio.run(_letters(network, run, kafka, topic_of(position)))
    letter = next((found for found in letters if found.position == position), None)
    if letter is None:
        raise UsageError(f"no dead letter at {position}: see `claimledger dlq list`")
    document = {
        "position": letter.position,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "key": None if letter.key is None else letter.key.hex(),
        "stage": letter.stage,
        "type": letter.type,
        "reason": letter.reason,
        "time_ms": letter.time_ms,
        "replayed": letter.replayed,
        "cut": letter.cut,
        "headers": {n: v.decode("utf-8", "replace") for n, v in letter.headers},
        "value_bytes": len(letter.value),
        "value_begins": letter.value[:SHOWN_BYTES].hex(),
    }
    Output(as_json=as_json).document(document, "\n".join(f"{name:>13}  {value}" for name, value in document.items()))


@dlq.command()
def replay(positions: Positions, run: RunDirectory = RUN, kafka: Kafka = "", as_json: Json = False) -> None:
    """Send dead letters once more to where they came from; those replayed before stay where they are."""
    network = read_network(run)
    chosen = frozenset(positions)
    for position in chosen - {ALL}:
        topic_of(position)

    def wanted(letter: DeadLetter) -> bool:
        return not letter.replayed and not letter.cut and (ALL in chosen or letter.position in chosen)

    async def send() -> list[DeadLetter]:
        address = kafka or network.kafka
        await reach_kafka(address)
        producer = make_producer(address, "claimledger-dlq")
        await producer.start()
        try:
            return await replay_dead_letters(address, LetterKeys(network, run), producer, _topics(network, ""), wanted)
        finally:
            await producer.stop()

    sent = asyncio.run(send())
    out = Output(as_json=as_json)
    for letter in sent:
        out.document({"position": letter.position, "topic": letter.topic}, f"{letter.position} → {letter.topic}")
    out.say(f"{len(sent)} replayed")
    left = sorted(chosen - {ALL} - {letter.position for letter in sent})
    for position in left:
        out.error(
            f"{position}: not replayed, since it is unknown, was replayed before, or was cut: see `claimledger dlq list`"
        )
    if left:
        raise typer.Exit(1)


def topic_of(position: str) -> str:
    """The source topic of a letter's position. Raises UsageError for another form."""
    match = re.fullmatch(r"(.+)\.dlq:\d+", position)
    if match is None:
        raise UsageError(f"{position!r} is no position: <topic>.dlq:<offset>, see `claimledger dlq list`")
    return match[1]


def _topics(network: Network, pattern: str) -> list[str]:
    return [topic.name for topic in network.topics() if topic.row.dead_letters and pattern in topic.name]


async def _letters(network: Network, run: Any, kafka: str, pattern: str) -> list[DeadLetter]:
    topics = _topics(network, pattern)
    await reach_kafka(kafka or network.kafka)
    return await list_dead_letters(kafka or network.kafka, LetterKeys(network, run), topics)
