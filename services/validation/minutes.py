"""Typical minutes of common time-based services, for the fraud rule on impossible days. 0 where nothing is known.

Figures are the times that go with the codes' definitions in public fee rules of 2024; rounded to the lower end.
"""

from typing import Final

MINUTES: Final = {
    "99202": 15,
    "99203": 30,
    "99204": 45,
    "99205": 60,
    "99212": 10,
    "99213": 20,
    "99214": 30,
    "99215": 40,
    "99221": 40,
    "99222": 55,
    "99223": 75,
    "99291": 30,
    "90791": 60,
    "90832": 30,
    "90834": 45,
    "90837": 60,
    "97110": 15,
    "97112": 15,
    "97140": 15,
    "97530": 15,
}


def minutes_of(procedure: str) -> int:
    return MINUTES.get(procedure, 0)
