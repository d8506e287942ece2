"""Identifiers with a form of their own: NPI, claim control numbers, calendar days."""

import base64
import datetime
from functools import lru_cache
from typing import Final

_EPOCH: Final = datetime.date(1970, 1, 1).toordinal()
_NPI_LENGTH: Final = 10


@lru_cache(maxsize=4096)
def npi_is_valid(npi: str) -> bool:
    """10 digits, the first 1 or 2, Luhn over "80840" and the NPI divisible by 10. Source: standards.md, Identifiers."""
    if len(npi) != _NPI_LENGTH or not npi.isascii() or not npi.isdigit() or npi[0] not in "12":
        return False
    total = 0
    for position, digit in enumerate(reversed("80840" + npi)):
        doubled = int(digit) * (1 + position % 2)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def npi_with_check_digit(nine_digits: str) -> str:
    """The NPI that begins with these nine digits."""
    return next(npi for d in "0123456789" if npi_is_valid(npi := nine_digits + d))


def control_number(claim_ref: bytes) -> str:
    """A claim_ref for people and for X12: base32 without padding, 26 characters (REF*1K, CLP07)."""
    return base64.b32encode(claim_ref).decode().rstrip("=")


def claim_ref_of(control: str) -> bytes:
    """The 16 bytes behind a control number. Raises ValueError with what is wrong."""
    try:
        claim_ref = base64.b32decode(control.strip().upper() + "======")
    except ValueError:
        raise ValueError(f"{control!r} is no claim control number: 26 characters A–Z, 2–7") from None
    if len(claim_ref) != 16 or control_number(claim_ref) != control.strip().upper():
        raise ValueError(f"{control!r} is no claim control number: 26 characters A–Z, 2–7")
    return claim_ref


def day_of(date: datetime.date) -> int:
    """Days since 1970-01-01."""
    return date.toordinal() - _EPOCH


def date_of(day: int) -> datetime.date:
    """The calendar date of a day number. Raises ValueError outside the years 1–9999."""
    return datetime.date.fromordinal(day + _EPOCH)
