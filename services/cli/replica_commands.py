"""replica rejoin: what an organisation's people do for a replica that lost its record of what it has signed."""

import time
from typing import Annotated, Final

import grpc
import typer

from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claims.transaction import REOPEN_LANE, Kind, PartySignature, ReopenLane, SignedTransaction, operator_message
from cli.bootstrap import BootstrapError, order
from cli.options import RUN, Json, RunDirectory
from cli.output import Output
from cli.session import Session, UsageError, open_session
from runtime.development import ORGANISATION_KEY_ID
from runtime.pki import load_signing_key

PREPARE_WITHIN_S: Final = 15.0
ORDERED_WITHIN_S: Final = 20.0
"""At one other member; then the next is asked."""
VOTES_WITHIN_S: Final = 30.0
POLL_S: Final = 0.1
_AWAY: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
WHAT_IT_DOES: Final = (
    "{0} states for ever, under its organisation key, that its replica signs nothing more in the rounds in which it may have "
    "signed before its record was lost, and opens the next incarnation of its lane; batches of the old one are never ordered "
    "after that. Run it for one machine alone: no other replica of {0} may be running anywhere, now or later."
)

replica = typer.Typer(no_args_is_help=True, help="Look after an organisation's replica.")


@replica.callback()
def _commands() -> None:
    """So that `rejoin` stays a word of its own."""


@replica.command()
def rejoin(
    organisation: Annotated[str, typer.Argument(metavar="ORG", help="whose replica lost its record; it is running")],
    yes: Annotated[bool, typer.Option("--yes", help="it is meant: the statement cannot be taken back")] = False,
    run: RunDirectory = RUN,
    as_json: Json = False,
) -> None:
    """Let a running replica vote again that lost its safety record: the organisation's signed statement on the ledger."""
    out, session = Output(as_json=as_json), open_session(run, organisation)
    if all(organisation != address.organisation for address in session.network.replicas):
        raise UsageError(
            f"{organisation} runs no replica: {', '.join(r.organisation for r in session.network.replicas)} do"
        )
    if not session.replica_status(session.replica_address).not_voting:
        out.document(
            {"replica": organisation, "rejoined": False}, f"the replica of {organisation} takes part: nothing to do"
        )
        return
    out.aside(WHAT_IT_DOES.format(organisation))
    if not yes:
        raise UsageError("nothing was done: say --yes to have it done")
    stated = restore(session)
    document = {
        "replica": organisation,
        "rejoined": True,
        "incarnation": stated.incarnation,
        "after_round": stated.last_voted_round,
    }
    told = f"the replica of {organisation} votes from round {stated.last_voted_round + 1} on, incarnation {stated.incarnation}"
    out.document(document, told)


def restore(session: Session) -> ReopenLane:
    """Has the statement prepared, signs it, orders it at another member, and returns when the replica takes part.

    May be run again at any point: the replica then prepares the statement of the next incarnation, where it has to.
    """
    with session.replica() as channel:
        request = ledger_pb2.PrepareRejoinRequest(key_id=ORGANISATION_KEY_ID)
        prepared = ledger_pb2_grpc.LedgerServiceStub(channel).PrepareRejoin(request, timeout=PREPARE_WITHIN_S)
    _order_elsewhere(session, _signed(session, prepared.statement))
    deadline = time.monotonic() + VOTES_WITHIN_S
    while why := session.replica_status(session.replica_address).not_voting:
        if time.monotonic() > deadline:
            raise BootstrapError(
                f"the statement is executed, and the replica does not vote yet ({why}): run this again"
            )
        time.sleep(POLL_S)
    return REOPEN_LANE.decode(prepared.statement)


def _signed(session: Session, statement: bytes) -> SignedTransaction:
    """Under the key of the organisation, not one that lies with the replica."""
    body = REOPEN_LANE.decode(statement)
    message = operator_message(bytes.fromhex(session.network.chain_id), body.epoch, statement)
    key = load_signing_key(session.place / "organisation.ed25519")
    signature = PartySignature(session.organisation, ORGANISATION_KEY_ID, key.sign(message))
    return SignedTransaction(Kind.REOPEN_LANE, statement, (signature,))


def _order_elsewhere(session: Session, statement: SignedTransaction) -> None:
    """At the first other member that has it executed: the own lane is what is not trusted, and one may be away or withhold it."""
    others = [r.address for r in session.network.replicas if r.organisation != session.organisation]
    for address in others:
        try:
            with session.replica(address) as channel:
                order(channel, [statement], within_s=ORDERED_WITHIN_S)
        except grpc.RpcError as error:
            if error.code() not in _AWAY:
                raise
        else:
            return
    raise BootstrapError("no other replica took the statement: see `claimledger status`, then run this again")
