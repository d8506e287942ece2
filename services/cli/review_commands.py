"""review list, release, deny: the payer's people decide what waits for them."""

import time
from typing import Annotated, Any

import typer

from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from claims.identifiers import claim_ref_of
from claims.status import Status
from claims.transaction import REVIEW_CLAIM, Kind, Prefix, ReasonClass, ReviewClaim, ReviewDecision
from cli.bootstrap import order, sign_transaction
from cli.claim_commands import CALL_TIMEOUT_S, Reference, claim_view
from cli.options import ORGANISATION, RUN, Json, Organisation, RunDirectory
from cli.output import Output, when
from cli.session import Session, UsageError, open_session
from runtime.development import ORGANISATION_KEY_ID

PAGE = 200
VISIBLE_WITHIN_S = 15.0
POLL_S = 0.1

review = typer.Typer(no_args_is_help=True, help="Decide claims that wait for a person.")


@review.command("list")
def list_held(run: RunDirectory = RUN, org: Organisation = ORGANISATION, as_json: Json = False) -> None:
    """The organisation's claims that wait for a decision, oldest first."""
    out, session = Output(as_json=as_json), open_session(run, org)
    rows = [
        {
            "control_number": claim.control_number,
            "since": when(claim.status_time_ms),
            "payer": claim.payer,
            "submitter": claim.submitter,
            "why": claim.detail,
        }
        for claim in held_claims(session)
    ]
    out.table(f"held for {org}", rows)


@review.command()
def release(
    reference: Reference, run: RunDirectory = RUN, org: Organisation = ORGANISATION, as_json: Json = False
) -> None:
    """Let a held claim be paid; it is adjudicated as of now."""
    _decide(run, org, reference, ReviewDecision.RELEASE, ReasonClass.CLEARED, "", as_json=as_json)


@review.command()
def deny(
    reference: Reference,
    carc: Annotated[str, typer.Option(help="claim adjustment reason code, such as 16, 18 or B7")],
    reason: Annotated[
        str, typer.Option(help="fraud_suspicion, duplicate, edit or medical_necessity")
    ] = ReasonClass.FRAUD_SUSPICION.name.lower(),
    run: RunDirectory = RUN,
    org: Organisation = ORGANISATION,
    as_json: Json = False,
) -> None:
    """Deny a held claim with a claim adjustment reason code."""
    allowed = {r.name.lower(): r for r in ReasonClass if r not in {ReasonClass.NONE, ReasonClass.CLEARED}}
    if reason.lower() not in allowed:
        raise UsageError(f"--reason {reason}: one of {', '.join(allowed)}")
    if not 1 <= len(carc) <= 5 or not carc.isalnum():
        raise UsageError(f"--carc {carc}: 1 to 5 letters and digits")
    _decide(run, org, reference, ReviewDecision.DENY, allowed[reason.lower()], carc.upper(), as_json=as_json)


def held_claims(session: Session) -> list[intake_pb2.ClaimView]:
    """All pended claims of the organisation."""
    found: list[intake_pb2.ClaimView] = []
    with session.intake() as channel:
        stub = intake_pb2_grpc.IntakeServiceStub(channel)
        request = intake_pb2.ListClaimsRequest(page_size=PAGE, statuses=[intake_pb2.CLAIM_STATUS_PENDED])
        while True:
            page = stub.ListClaims(request, timeout=CALL_TIMEOUT_S)
            found += page.claims
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


def decide(session: Session, reference: str, decision: ReviewDecision, reason: ReasonClass, carc: str) -> None:
    """Orders the payer's decision on the ledger. Raises BootstrapError with the reason where the ledger refuses it."""
    claim = claim_view(session, reference)
    chain_id = bytes.fromhex(session.network.chain_id)
    prefix = Prefix(chain_id, Kind.REVIEW_CLAIM, session.organisation, ORGANISATION_KEY_ID, 0, 0)
    body = ReviewClaim(prefix, claim_ref_of(reference), claim.version, decision, reason, carc)
    signed = sign_transaction(session.run, Kind.REVIEW_CLAIM, REVIEW_CLAIM.encode(body), (session.organisation,))
    with session.replica() as channel:
        order(channel, [signed])


def _decide(
    run: Any, org: str, reference: str, decision: ReviewDecision, reason: ReasonClass, carc: str, *, as_json: bool
) -> None:
    out, session = Output(as_json=as_json), open_session(run, org)
    decide(session, reference, decision, reason, carc)
    deadline = time.monotonic() + VISIBLE_WITHIN_S
    while (claim := claim_view(session, reference)).status == intake_pb2.CLAIM_STATUS_PENDED:
        if time.monotonic() > deadline:
            out.aside("the ledger has decided; intake does not show it yet: see `claimledger track`")
            break
        time.sleep(POLL_S)
    status = Status(claim.status).name
    out.document({"control_number": reference, "status": status, "detail": claim.detail}, f"{reference}: {status}")
