"""Options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
RUN = Path(".run")
ORGANISATION = "aurora"
