"""Decisions, findings and stored views as the messages of IntakeService."""

from typing import Final

from claim_intake.group_commit import OutboxFullError
from claim_intake.intake import Verdict
from claim_intake.store.accepting import Decision
from claim_intake.store.reading import StoredView
from claimledger.intake.v1 import intake_pb2
from claims.finding import Finding
from claims.identifiers import control_number
from claims.status import StatusEvent
from runtime.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    ResourceExhaustedError,
    RpcError,
    Violation,
    code_of,
)

CONFLICT: Final = "this client_key was used before with another body"


def accepted(decision: Decision) -> intake_pb2.Accepted:
    """The answer to a claim that is new, or that had been accepted before with the same body."""
    return intake_pb2.Accepted(
        control_number=control_number(decision.claim_ref),
        version=decision.version,
        repeated_submission=decision.verdict is Verdict.REPEATED,
    )


def error_of(refusal: list[Finding] | Decision | OutboxFullError) -> RpcError:
    """What the unary call fails with."""
    if isinstance(refusal, OutboxFullError):
        return ResourceExhaustedError(str(refusal), reason="OUTBOX_FULL", retry_after_ms=refusal.retry_after_ms)
    if isinstance(refusal, Decision):
        return AlreadyExistsError(CONFLICT, violations=[Violation("client_key", CONFLICT)])
    first = refusal[0]
    more = f" and {len(refusal) - 1} more" if len(refusal) > 1 else ""
    return InvalidArgumentError(
        f"{first.path}: {first.message}{more}", violations=[Violation(f.path, f.message, f.rule) for f in refusal]
    )


def answer(decision: Decision) -> intake_pb2.ClaimAnswer:
    """One claim's place in a batch's answer."""
    if decision.verdict is Verdict.CONFLICT:
        return failed(error_of(decision))
    return intake_pb2.ClaimAnswer(accepted=accepted(decision))


def failed(error: RpcError) -> intake_pb2.ClaimAnswer:
    """The unary call's error as a batch carries it."""
    return intake_pb2.ClaimAnswer(
        error=intake_pb2.ClaimError(
            code=code_of(error).value[0],
            message=error.message,
            violations=[
                intake_pb2.FieldViolation(field=v.field, description=v.description, rule=v.rule)
                for v in error.violations
            ],
            retry_after_ms=error.retry_after_ms or 0,
        )
    )


def view(stored: StoredView) -> intake_pb2.ClaimView:
    """A claim as its parties see it."""
    return intake_pb2.ClaimView(
        control_number=control_number(stored.claim_ref),
        version=stored.version,
        status=intake_pb2.ClaimStatus.ValueType(stored.status),
        submitter=stored.submitter,
        payer=stored.payer,
        payee=stored.payee,
        received_time_ms=stored.received_ms,
        status_time_ms=stored.status_ms,
        detail=stored.detail,
        attempts=stored.attempts,
        verified=stored.verified,
        settlement_proof=stored.settlement_proof,
    )


def tracked(cursor: str, event: StatusEvent) -> intake_pb2.TrackClaimsResponse:
    """One ordered step with the cursor that resumes right after it."""
    return intake_pb2.TrackClaimsResponse(
        cursor=cursor,
        control_number=control_number(event.claim_ref),
        version=event.version,
        status=intake_pb2.ClaimStatus.ValueType(event.status),
        time_ms=event.time_ms,
        detail=event.detail,
        event_id=event.id,
    )
