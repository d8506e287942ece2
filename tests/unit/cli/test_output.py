"""The two forms of output: tables and lines for people, one JSON document a line for scripts."""

import json

import pytest

from cli.output import Output, dollars

ROWS = [
    {"name": "intake", "running": True, "lag": 12_345, "cpu_s": 1234.5, "address": None},
    {"name": "fraud", "running": False, "lag": 0, "cpu_s": 0.25, "address": "127.0.0.1:1"},
]


def test_a_table_has_a_heading_and_a_line_for_each_row(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table("processes", ROWS)
    title, heading, _, first, second = capsys.readouterr().out.splitlines()
    assert title == "processes"
    assert heading.split() == ["name", "running", "lag", "cpu", "s", "address"]
    assert first.split() == ["intake", "yes", "12345", "1,234.5", "–"]
    assert second.split() == ["fraud", "no", "0", "0.2", "127.0.0.1:1"]


def test_the_same_table_as_json_is_one_document_a_row_with_the_values_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Output(as_json=True).table("processes", ROWS)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS


def test_an_empty_table_says_so_to_people_and_nothing_to_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table("held", [], empty="none")
    assert capsys.readouterr().out == "held: none\n"
    Output(as_json=True).table("held", [], empty="none")
    assert capsys.readouterr().out == ""


def test_with_json_only_documents_are_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=True)
    out.say("for people")
    out.aside("for people too")
    out.document({"a": 1}, "for people")
    out.error("wrong")
    told = capsys.readouterr()
    assert (told.out, told.err) == ('{"a": 1}\n', '{"error": "wrong"}\n')


def test_what_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.say("claims[3].lines[0]")
    out.document({}, "[red]claim[/red]")
    out.error("claims[3]")
    told = capsys.readouterr()
    assert told.out == "claims[3].lines[0]\n[red]claim[/red]\n"
    assert told.err == "error: claims[3]\n"


@pytest.mark.parametrize("text", ["lines[a].charge_cents", "[red]claim[/red]", "[/claims]", "is :x: allowed"])
def test_what_looks_like_markup_in_a_cell_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Reasons of dead letters and of refusals stand in tables, places and all."""
    Output().table("letters", [{"reason": text}])
    assert capsys.readouterr().out.splitlines()[-1].strip() == text


@pytest.mark.parametrize(
    ("cents", "text"), [(0, "0.00"), (5, "0.05"), (-5, "-0.05"), (123_456_789, "1,234,567.89"), (-100, "-1.00")]
)
def test_amounts(cents: int, text: str) -> None:
    assert dollars(cents) == text
