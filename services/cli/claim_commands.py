"""submit, invent, track, tail, proof, verify, load: a submitter's and an auditor's commands."""

import asyncio
import importlib
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import asdict
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from google.protobuf import json_format

from claimledger.intake.v1 import intake_pb2, intake_pb2_grpc
from claimledger.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from claims.status import TERMINAL, Status
from cli.bootstrap import load_world
from cli.claim_files import read_requests
from cli.events import alerts, reached, settlement_document, settlements, status_events
from cli.failures import explain
from cli.generator import Generator
from cli.loading import Load, sessions_of
from cli.options import ORGANISATION, RUN, Json, Kafka, Organisation, RunDirectory
from cli.outcomes import outcome_table
from cli.output import Output, dollars, when
from cli.session import Session, UsageError, open_session
from cli.world import PAYERS
from runtime.network import GENESIS_FILE

CALL_TIMEOUT_S = 10.0
Reference = Annotated[str, typer.Argument(help="claim control number, 26 characters")]


def submit(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="JSON or .pb files of claims")],
    run: RunDirectory = RUN,
    org: Organisation = ORGANISATION,
    as_json: Json = False,
) -> None:
    """Submit claims from files. The same claim submitted again gets the same control number."""
    out, session = Output(as_json=as_json), open_session(run, org)
    failed = 0
    with session.intake() as channel:
        stub = intake_pb2_grpc.IntakeServiceStub(channel)
        for path in files:
            for request in read_requests(path):
                try:
                    accepted = stub.SubmitClaim(request, timeout=CALL_TIMEOUT_S).accepted
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.UNAVAILABLE:
                        raise
                    failed += 1
                    out.error(f"{path}: {explain(error)}")
                    continue
                document = {
                    "file": str(path),
                    "control_number": accepted.control_number,
                    "version": accepted.version,
                    "repeated": accepted.repeated_submission,
                }
                known = " (known before)" if accepted.repeated_submission else ""
                out.document(document, f"{path}: accepted as {accepted.control_number}{known}")
    if failed:
        raise typer.Exit(1)


def invent(
    claims: Annotated[int, typer.Option(min=1, max=10_000, help="how many claims")] = 1,
    seed: Annotated[int, typer.Option(help="the same seed gives the same claims; 0 draws one")] = 0,
    planted: Annotated[bool, typer.Option(help="plant duplicates, errors and frauds")] = False,
    run: RunDirectory = RUN,
    org: Organisation = ORGANISATION,
) -> None:
    """Print invented claims to one insurer of the network, a JSON document a line, as `submit` reads them."""
    if org not in PAYERS:
        raise UsageError(f"invented claims are an insurer's: use --org {'|'.join(PAYERS)}")
    plan = Generator(load_world(run), seed or 1 + secrets.randbelow(2**31), planted=planted)
    own = (planned.claim for planned in plan if planned.claim.header.payer == org)
    for claim in islice(own, claims):
        print(json.dumps(json_format.MessageToDict(claim)))


def track(
    reference: Reference,
    run: RunDirectory = RUN,
    org: Organisation = ORGANISATION,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on after the claim has ended")] = False,
    as_json: Json = False,
) -> None:
    """Show a claim's steps as they come, until it has ended or waits for a person who has not decided yet."""
    out, session = Output(as_json=as_json), open_session(run, org)

    async def watch() -> None:
        async for event in status_events(session, reference):
            out.document(event, status_line(event))
            if not follow and _stays(session, reference, Status[event["status"]]):
                return

    asyncio.run(watch())


def _stays(session: Session, reference: str, status: Status) -> bool:
    """Whether no step is known to follow this one. A held claim may have been decided since: then more steps come."""
    if status is not Status.PENDED:
        return status in TERMINAL
    return claim_view(session, reference).status == intake_pb2.CLAIM_STATUS_PENDED


class Stream(StrEnum):
    STATUS = "status"
    ALERTS = "alerts"
    SETTLEMENTS = "settlements"


def tail(
    stream: Stream,
    run: RunDirectory = RUN,
    org: Organisation = ORGANISATION,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="stop after so many; 0 never")] = 0,
    cursor: Annotated[str, typer.Option(help="go on after this event (status, settlements)")] = "",
    kafka: Kafka = "",
    as_json: Json = False,
) -> None:
    """Follow the organisation's events from the first one on."""
    out, session = Output(as_json=as_json), open_session(run, org)
    if stream is Stream.ALERTS and org not in session.network.payers:
        raise UsageError(f"alerts are a payer's; {org} is none: use --org {'|'.join(session.network.payers)}")
    if stream is Stream.ALERTS and cursor:
        raise UsageError("alerts are read from Kafka from the first one on; --cursor is for status and settlements")
    sources: dict[Stream, AsyncIterator[dict[str, Any]]] = {
        Stream.STATUS: status_events(session, cursor=cursor),
        Stream.ALERTS: alerts(session, kafka or session.network.kafka),
        Stream.SETTLEMENTS: settlements(session, cursor),
    }
    lines = {Stream.STATUS: status_line, Stream.ALERTS: alert_line, Stream.SETTLEMENTS: settlement_line}

    async def follow() -> None:
        seen = 0
        async for event in sources[stream]:
            out.document(event, lines[stream](event))
            seen += 1
            if seen == count:
                return

    asyncio.run(follow())


def proof(
    reference: Reference,
    file: Annotated[Path, typer.Option("--out", help="where to write the proof")] = Path("settlement.proof"),
    run: RunDirectory = RUN,
    org: Organisation = ORGANISATION,
    as_json: Json = False,
) -> None:
    """Fetch a claim's settlement with its proof from the ledger and keep it in a file."""
    out, session = Output(as_json=as_json), open_session(run, org)
    with session.replica() as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        request = ledger_pb2.GetSettlementRequest(control_number=reference)
        found = stub.GetSettlement(request, timeout=CALL_TIMEOUT_S).proof
    file.write_bytes(found.SerializeToString())
    document = settlement_document(found)
    out.document(document, f"{settlement_line(document)}\nproof in {file}; check it: claimledger verify {file}")


def verify(
    proofs: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="files with proofs")],
    genesis: Annotated[Path | None, typer.Option(help="the network's genesis; else that of --run")] = None,
    genesis_hash: Annotated[str, typer.Option(help="chain id that the genesis must hash to, hex")] = "",
    run: RunDirectory = RUN,
    as_json: Json = False,
) -> None:
    """Check proofs of settlements offline, with the stand-alone verifier."""
    out = Output(as_json=as_json)
    standalone = importlib.import_module("verify_settlement")
    try:
        pinned = bytes.fromhex(genesis_hash) if genesis_hash else None
    except ValueError as error:
        raise UsageError(f"--genesis-hash: {error}: 64 hex digits are wanted, as `claimledger certs` shows") from error
    try:
        verifier = standalone.Verifier((genesis or run / GENESIS_FILE).read_bytes(), pinned)
    except ValueError as error:
        raise UsageError(f"genesis: {error}") from error
    failed = 0
    for path in proofs:
        try:
            found = verifier.verify(path.read_bytes())
        except ValueError as error:
            failed += 1
            out.error(f"{path}: refused: {error}")
            continue
        result = found.result
        signers = ", ".join(found.signers)
        text = (
            f"{path}: holds. {result['outcome']}, paid {dollars(result['paid_cents'])} by {result['payer']} to "
            f"{result['payee']} in block {result['height']}; proven by block {found.block_height}, signed by {signers}"
        )
        out.document({"file": str(path), "verified": True, **asdict(found)}, text)
    if failed:
        raise typer.Exit(1)


def load(
    claims: Annotated[int, typer.Option(min=1, help="how many claims")] = 300,
    rate: Annotated[float, typer.Option(min=0, help="claims a second; 0 is as fast as they are taken")] = 50.0,
    seed: Annotated[int, typer.Option(help="the same seed gives the same claims; 0 draws one")] = 0,
    planted: Annotated[bool, typer.Option(help="plant duplicates, errors and frauds")] = True,
    run: RunDirectory = RUN,
    as_json: Json = False,
) -> None:
    """Submit invented claims of all insurers at a rate and follow each to its end."""
    out = Output(as_json=as_json)
    session = open_session(run, PAYERS[0])
    seed = seed or 1 + secrets.randbelow(2**31)
    plan = iter(Generator(load_world(run), seed, planted=planted))
    asyncio.run(intake_answers(session))  # the submitter is patient: it would wait for a network that is not there
    out.say(f"{claims} claims of seed {seed} at {rate:g} a second to {session.network.intake_address}")
    with out.progress() as bars:
        bar = bars.add_task("claims ended", total=claims)

        def progress(_: int, answered: int, ended: int) -> None:
            refused = len(driver.report.refused)
            bars.update(bar, completed=ended + refused, description=f"{answered} answered, ended")

        driver = Load(sessions_of(session, PAYERS), f"load-{seed}", progress)
        report = asyncio.run(driver.run(plan, claims, rate))
    out.table("what became of them", outcome_table(report))
    lost = len(report.unaccounted)
    out.document(
        {"seed": seed, "accepted": len(report.claims), "refused": len(report.refused), "unaccounted": lost},
        f"{len(report.claims)} accepted, {len(report.refused)} refused at the door, {lost} unaccounted for",
    )
    if lost:
        raise typer.Exit(1)


async def intake_answers(session: Session) -> None:
    """Raises ConnectionError where nobody answers at intake's address."""
    async with session.intake_channel() as channel:
        await reached(channel, session, session.network.intake_address)


def status_line(event: dict[str, Any]) -> str:
    return f"{when(event['time_ms'])}  {event['control_number']}  {event['status']:<10} {event['detail']}"


def alert_line(event: dict[str, Any]) -> str:
    held = "held" if event["pended"] else "held or denied before scoring"
    reasons = "; ".join(event["reasons"])
    return f"{when(event['time_ms'])}  {event['control_number']}  score {event['score']:.2f}  {held}  {reasons}"


def settlement_line(event: dict[str, Any]) -> str:
    return (
        f"{event['control_number']}  {event['outcome']:<8} {event['payer']} → {event['payee']}  "
        f"charge {dollars(event['charge_cents'])}  paid {dollars(event['paid_cents'])}  "
        f"patient {dollars(event['patient_cents'])}  block {event['height']}"
    )


def claim_view(session: Session, reference: str) -> intake_pb2.ClaimView:
    """The claim as intake sees it."""
    with session.intake() as channel:
        stub = intake_pb2_grpc.IntakeServiceStub(channel)
        request = intake_pb2.GetClaimRequest(control_number=reference)
        found: intake_pb2.GetClaimResponse = stub.GetClaim(request, timeout=CALL_TIMEOUT_S)
    return found.claim
