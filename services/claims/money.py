"""Integer cents and the one way to divide them."""

from typing import Final

BASIS_POINTS: Final = 10_000


def half_up(numerator: int, denominator: int) -> int:
    """numerator / denominator to the nearest integer, halves upwards: 1/2 becomes 1.

    Both are non-negative, the denominator positive. Source: settlement.md, step 5.
    """
    assert numerator >= 0 and denominator > 0  # noqa: PT018
    return (2 * numerator + denominator) // (2 * denominator)


def share_of(amount_cents: int, basis_points: int) -> int:
    """The share of an amount, half-up to the cent."""
    return half_up(amount_cents * basis_points, BASIS_POINTS)


def shown(amount_cents: int) -> str:
    """For people's eyes: 123456 becomes 1,234.56."""
    sign = "-" if amount_cents < 0 else ""
    return f"{sign}{abs(amount_cents) // 100:,}.{abs(amount_cents) % 100:02d}"
