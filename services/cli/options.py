"""Options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

from runtime.topics import check_prefix

RunDirectory = Annotated[
    Path, typer.Option("--run", envvar="CLAIMLEDGER_RUN", help="directory of the network's certificates, data and logs")
]
Organisation = Annotated[
    str, typer.Option("--org", "-o", envvar="CLAIMLEDGER_ORGANISATION", help="the organisation that you act for")
]
Json = Annotated[bool, typer.Option("--json", help="one JSON document a line, for scripts")]
Kafka = Annotated[
    str, typer.Option("--kafka", envvar="KAFKA_BOOTSTRAP_SERVERS", help="Kafka's address; else the network's own")
]


def _prefix(value: str | None) -> str | None:
    try:
        return None if value is None else check_prefix(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


TopicPrefix = Annotated[
    str | None,
    typer.Option(
        envvar="CLAIMLEDGER_TOPIC_PREFIX",
        callback=_prefix,
        help="before every name in Kafka; unless given, none in the network's own Kafka, and one made of the chain id in a "
        "Kafka given by --kafka",
    ),
]
Replication = Annotated[
    int,
    typer.Option(
        min=-1,
        max=32,
        envvar="CLAIMLEDGER_REPLICATION_FACTOR",
        help="replicas of each partition of topics that are made now; -1 leaves it to the broker",
    ),
]
RUN = Path(".run")
ORGANISATION = "aurora"
