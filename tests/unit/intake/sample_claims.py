"""A well-formed claim message for the tests of intake, to be changed at one place by each of them."""

from claimledger.claims.v1 import claim_pb2


def sample_claim(payer: str = "payer-one", lines: int = 2) -> claim_pb2.Claim:
    """Two diagnoses, `lines` lines of 125.00 each."""
    claim = claim_pb2.Claim()
    header = claim.header
    header.kind = claim_pb2.CLAIM_KIND_PROFESSIONAL
    header.frequency = claim_pb2.FREQUENCY_ORIGINAL
    header.sequence = claim_pb2.PAYER_SEQUENCE_PRIMARY
    header.total_charge_cents = 12_500 * lines
    header.patient_control_number = "PCN-000123"
    header.place_of_service = "11"
    header.payer = payer
    header.plan = "gold-2026"
    header.currency = "USD"
    patient = claim.parties.patient
    patient.member_id, patient.family_name, patient.given_name = "M0001234", "Müller", "Ann"
    patient.birth.year, patient.birth.month, patient.birth.day = 1980, 2, 29
    patient.sex = claim_pb2.SEX_FEMALE
    claim.parties.billing_npi = "1234567893"
    claim.parties.billing_taxonomy = "207Q00000X"
    claim.diagnoses.add(code="E11.9")
    claim.diagnoses.add(code="i10")
    for number in range(1, lines + 1):
        line = claim.lines.add(
            number=number, units=1, charge_cents=12_500, procedure="99213", diagnosis_pointers=[1, 2]
        )
        line.modifiers.append("25")
        first = getattr(line, "from")
        first.year, first.month, first.day = 2026, 11, 2
    return claim
