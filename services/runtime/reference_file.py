"""A payer's reference data as one JSON file: plans, fees, members, providers, code tables.

The file is made by the payer's own systems (in development by `claimledger certs`) and read once at the start of validation.
Its SHA-256 is the rule set's hash, so what priced a claim is named exactly. Days are ISO dates, money integer cents,
pseudonyms hex.
"""

import datetime
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from claims.identifiers import date_of, day_of
from claims.reference import Benefit, Fee, Member, PayerReference, Plan, Provider
from claims.transaction import AccumulatorKind, AccumulatorRule, AccumulatorScope, CobMethod, Tier


class ReferenceFileError(ValueError):
    """The file is missing or not what it should be; says which part."""


def save_reference(reference: PayerReference, path: Path) -> bytes:
    """Writes the file and returns its rule set hash."""
    content = {
        "payer": reference.payer,
        "exclusions_version": reference.exclusions_version,
        "plans": [_plan_out(plan) for plan in reference.plans.values()],
        "fees": [_fee_out(fee) for fees in reference.fees.values() for fee in fees],
        "members": [_member_out(member) for member in reference.members.values()],
        "providers": [_provider_out(provider) for provider in reference.providers.values()],
        "diagnosis_codes": sorted(reference.diagnosis_codes),
    }
    raw = json.dumps(content, indent=1, sort_keys=True).encode()
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(raw)
    temporary.chmod(0o600)
    temporary.replace(path)
    return hashlib.sha256(raw).digest()


def load_reference(path: Path) -> PayerReference:
    """Reads the file. Raises ReferenceFileError naming what is wrong."""
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
        return PayerReference(
            payer=content["payer"],
            rule_set_hash=hashlib.sha256(raw).digest(),
            plans={plan["plan"]: _plan_in(plan) for plan in content["plans"]},
            fees=_fees_by_key(map(_fee_in, content["fees"])),
            members={member["member_id"]: _member_in(member) for member in content["members"]},
            providers={provider["npi"]: _provider_in(provider) for provider in content["providers"]},
            diagnosis_codes=frozenset(content["diagnosis_codes"]),
            exclusions_version=content["exclusions_version"],
        )
    except FileNotFoundError as error:
        raise ReferenceFileError(f"{path} is missing: run `claimledger certs`") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ReferenceFileError(f"{path}: {type(error).__name__}: {error}") from error


def _day_in(text: str) -> int:
    return day_of(datetime.date.fromisoformat(text))


def _day_out(day: int) -> str:
    return date_of(day).isoformat()


def _plan_out(plan: Plan) -> dict[str, Any]:
    return {
        "plan": plan.plan,
        "year": plan.year,
        "payers": list(plan.payers),
        "first_day": _day_out(plan.first_day),
        "last_day": _day_out(plan.last_day),
        "cob_method": plan.cob_method.name,
        "unscheduled_percent_of_charge": plan.unscheduled_percent_of_charge,
        "timely_filing_days": plan.timely_filing_days,
        "accumulators": [
            {
                "kind": rule.kind.name,
                "limit_class": rule.limit_class,
                "tier": rule.tier.name,
                "scope": rule.scope.name,
                "limit_cents": rule.limit_cents,
            }
            for rule in plan.accumulators
        ],
        "benefits": [_benefit_out(benefit) for benefit in plan.benefits],
    }


def _benefit_out(benefit: Benefit) -> dict[str, Any]:
    return {
        "benefit_class": benefit.benefit_class,
        "tier": benefit.tier.name,
        "copay_cents": benefit.copay_cents,
        "coinsurance_bp": benefit.coinsurance_bp,
        "deductible_applies": benefit.deductible_applies,
        "covered": benefit.covered,
        "limit_class": benefit.limit_class,
        "authorization_required": benefit.authorization_required,
    }


def _plan_in(raw: dict[str, Any]) -> Plan:
    return Plan(
        plan=raw["plan"],
        year=raw["year"],
        payers=tuple(raw["payers"]),
        first_day=_day_in(raw["first_day"]),
        last_day=_day_in(raw["last_day"]),
        accumulators=tuple(
            AccumulatorRule(
                AccumulatorKind[rule["kind"]],
                rule["limit_class"],
                Tier[rule["tier"]],
                AccumulatorScope[rule["scope"]],
                rule["limit_cents"],
            )
            for rule in raw["accumulators"]
        ),
        cob_method=CobMethod[raw["cob_method"]],
        benefits=tuple(Benefit(**{**benefit, "tier": Tier[benefit["tier"]]}) for benefit in raw["benefits"]),
        unscheduled_percent_of_charge=raw["unscheduled_percent_of_charge"],
        timely_filing_days=raw["timely_filing_days"],
    )


def _fee_out(fee: Fee) -> dict[str, Any]:
    return {
        "procedure": fee.procedure,
        "modifier": fee.modifier,
        "tier": fee.tier.name,
        "benefit_class": fee.benefit_class,
        "allowed_cents": fee.allowed_cents,
        "first_day": _day_out(fee.first_day),
        "last_day": _day_out(fee.last_day),
    }


def _fee_in(raw: dict[str, Any]) -> Fee:
    days = {"first_day": _day_in(raw["first_day"]), "last_day": _day_in(raw["last_day"])}
    return Fee(**{**raw, "tier": Tier[raw["tier"]], **days})


def _fees_by_key(fees: Iterable[Fee]) -> dict[tuple[str, str, Tier], tuple[Fee, ...]]:
    found: dict[tuple[str, str, Tier], tuple[Fee, ...]] = {}
    for fee in fees:
        key = (fee.procedure, fee.modifier, fee.tier)
        found[key] = (*found.get(key, ()), fee)
    return found


def _member_out(member: Member) -> dict[str, Any]:
    return {
        "member_id": member.member_id,
        "member_ref": member.member_ref.hex(),
        "family_ref": member.family_ref.hex(),
        "plan": member.plan,
        "family_name": member.family_name,
        "given_name": member.given_name,
        "birth_day": _day_out(member.birth_day),
        "sex": member.sex,
        "first_day": _day_out(member.first_day),
        "last_day": _day_out(member.last_day),
        "stable_id": member.stable_id,
    }


def _member_in(raw: dict[str, Any]) -> Member:
    days = {name: _day_in(raw[name]) for name in ("birth_day", "first_day", "last_day")}
    refs = {name: bytes.fromhex(raw[name]) for name in ("member_ref", "family_ref")}
    return Member(**{**raw, **days, **refs})


def _provider_out(provider: Provider) -> dict[str, Any]:
    excluded = provider.excluded_from_day
    return {
        "npi": provider.npi,
        "organisation": provider.organisation,
        "provider_ref": provider.provider_ref.hex(),
        "taxonomy": provider.taxonomy,
        "tier": provider.tier.name,
        "excluded_from_day": None if excluded is None else _day_out(excluded),
    }


def _provider_in(raw: dict[str, Any]) -> Provider:
    excluded = raw["excluded_from_day"]
    return Provider(
        npi=raw["npi"],
        organisation=raw["organisation"],
        provider_ref=bytes.fromhex(raw["provider_ref"]),
        taxonomy=raw["taxonomy"],
        tier=Tier[raw["tier"]],
        excluded_from_day=None if excluded is None else _day_in(excluded),
    )
