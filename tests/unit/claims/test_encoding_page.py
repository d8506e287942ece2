"""docs/ENCODING.md says what the code declares: every table, every enumeration, every type of signed message."""

import re
from importlib import import_module
from pathlib import Path
from typing import get_args, get_origin

import pytest

from claims.encoding import Text
from ledger_commit.consensus.messages import MessageType
from ledger_commit.settlement import contract
from tests.unit.claims.declared import (
    MODULES,
    PRIVATE_MODULES,
    class_at,
    codecs,
    codecs_in,
    hints_of,
    structures,
    wire_type,
)
from tests.unit.claims.encoding_page import PAGE, read_page

SERVICES = Path(contract.__file__).parents[2]


@pytest.mark.parametrize("name", read_page().structures)
def test_a_table_has_the_declared_fields_in_order_with_their_types(name: str) -> None:
    declared = [(field, wire_type(hint)) for field, hint in hints_of(structures()[name]).items()]
    assert list(read_page().structures[name].fields) == declared


@pytest.mark.parametrize("name", read_page().enums)
def test_a_table_has_the_members_of_its_enumeration(name: str) -> None:
    members = class_at(read_page().enum_codes[name])
    assert read_page().enums[name] == {int(member): member.name for member in members}  # type: ignore[attr-defined]


def test_signed_messages_have_the_types_of_the_page() -> None:
    assert read_page().messages == {int(kind): kind.name for kind in MessageType}


def test_a_structure_has_a_version_where_it_has_a_codec() -> None:
    declared = {name: next(iter(codec._head), None) for name, codec in codecs().items()}
    assert {n: s.version for n, s in read_page().structures.items() if s.version is not None} == declared


def test_every_codec_of_the_services_is_in_the_page_or_private_to_its_service() -> None:
    """A record that is stored for ever cannot come in unnoticed."""
    users = {
        ".".join(path.relative_to(SERVICES).with_suffix("").parts)
        for path in SERVICES.rglob("*.py")
        if re.search(r"= Codec\(", path.read_text())
    }
    assert users == {*MODULES, *PRIVATE_MODULES}
    assert all(list(codecs_in(module)) for module in users)
    assert all(module in PAGE.read_text() for module in PRIVATE_MODULES)


def test_replicas_agree_on_no_text_whose_validity_depends_on_a_unicode_version() -> None:
    """From the ledger's records down, all text is ASCII."""
    ledger = (
        "claims.transaction",
        "claims.result",
        "ledger_commit.consensus.messages",
        "ledger_commit.consensus.events",
        "ledger_commit.consensus.evidence",
    )
    for module in ledger:
        for cls in vars(import_module(module)).values():
            if isinstance(cls, type) and cls in structures().values():
                assert "text ≤" not in " ".join(map(wire_type, hints_of(cls).values())), cls


def test_every_type_in_a_table_is_one_that_section_1_defines() -> None:
    page = read_page()
    simple = r"[ui](8|16|32|64)|bool|bytes\[\d+\]|(bytes|ascii|text) ≤ \d+"
    for structure in page.structures.values():
        for _, kind in structure.fields:
            inner = re.sub(r"^(list ≤ \d+ of |optional )", "", kind)
            known = inner in page.structures or inner.removeprefix("enum ") in page.enums
            assert known or re.fullmatch(simple, inner), (structure.name, kind)


def test_the_comparison_sees_a_wrong_limit() -> None:
    """The words for a type carry its bounds; two types that differ never read the same."""
    hint = hints_of(class_at("claims.claim.Header"))["patient_control_number"]
    assert get_origin(hint) is not None
    assert get_args(hint)[1] == Text(38)
    assert wire_type(hint) == "text ≤ 38"
