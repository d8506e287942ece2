"""`claimledger`: the command line. Each command's help says what it needs."""

import logging
import os
import sys

import typer

from cli import claim_commands, network_commands
from cli.dlq_commands import dlq
from cli.failures import EXPECTED, describe
from cli.output import Output
from cli.replica_commands import replica
from cli.review_commands import review

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Health-insurance claims from submission to a settlement that anyone can verify.",
)
for command in (claim_commands.submit, claim_commands.invent, claim_commands.track, claim_commands.tail, claim_commands.proof,
                claim_commands.verify, claim_commands.load, network_commands.certs, network_commands.up,
                network_commands.down, network_commands.status, network_commands.demo):  # fmt: skip
    app.command()(command)
app.add_typer(review, name="review")
app.add_typer(dlq, name="dlq")
app.add_typer(replica, name="replica")


def main() -> None:
    """Runs the command; an expected error is one message and exit code 1."""
    # Clients report every failed attempt to connect; what came of it is said once, here.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        app(prog_name="claimledger")
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except EXPECTED as error:
        Output(as_json="--json" in sys.argv).error(describe(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
