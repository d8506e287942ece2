"""docs/TOPICS.md and docs/asyncapi.yaml are what the topic table and the contracts give."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.descriptor_pool import Default

from docs import generate
from runtime.topics import TABLE, Topic

DOCUMENT: dict[str, Any] = yaml.safe_load(generate.asyncapi_document())


def test_the_committed_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, generate.__file__, "--check"], capture_output=True, text=True, check=False, env=_environment()
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def _environment() -> dict[str, str]:
    root = Path(generate.__file__).parents[1]
    return {"PYTHONPATH": f"{root / 'services'}:{root / 'proto' / 'python'}:{root}", "PYTHONWARNINGS": "error"}


def test_a_page_that_is_not_current_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With another table than the one that the pages were made from."""
    monkeypatch.setattr(generate, "TABLE", TABLE[1:])
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 1
    said = capsys.readouterr().out
    assert "docs/TOPICS.md is not" in said
    assert "docs/asyncapi.yaml is not" in said


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.suffix)
def test_a_topic_has_its_line_its_channel_and_an_operation_for_each_service(row: Topic) -> None:
    pattern = row.name("<payer>" if row.scope.value.startswith("p") else "<id>")
    line = next(text for text in generate.topics_page().splitlines() if text.startswith(f"| `{pattern}` |"))
    assert line.count("|") == 10
    assert row.about in line
    channel = DOCUMENT["channels"][row.suffix]
    assert channel["address"] == pattern.replace("<", "{").replace(">", "}")
    operations = DOCUMENT["operations"]
    named = {name for name, told in operations.items() if told["channel"]["$ref"] == f"#/channels/{row.suffix}"}
    writes = {f"{service.value}.send.{row.suffix}" for service in row.writers}
    assert named == writes | {f"{service.value}.receive.{row.suffix}" for service in row.readers}


def test_every_reference_in_the_document_leads_somewhere() -> None:
    found = list(_references(DOCUMENT))
    for reference in found:
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    assert len(found) > len(TABLE)


def _references(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for name, inner in tree.items():
            if name == "$ref":
                yield inner
            yield from _references(inner)
    elif isinstance(tree, list):
        for inner in tree:
            yield from _references(inner)


@pytest.mark.parametrize("schema", sorted({row.schema for row in TABLE if row.schema.startswith("claimledger.")}))
def test_a_schema_is_a_message_of_the_contracts_told_with_all_its_fields(schema: str) -> None:
    text = generate.contract_of(schema)
    message = Default().FindMessageTypeByName(schema)
    assert text.count(f"\nmessage {message.name} {{") == 1
    for field in message.fields:
        assert f" {field.name} = {field.number};" in text
        inner = field.message_type or field.enum_type
        if inner is not None:
            home = inner.file.package == message.file.package
            assert f" {inner.name} {{" in text if home else f'import "{inner.file.name}";' in text
