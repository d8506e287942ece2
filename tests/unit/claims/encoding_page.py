"""What docs/ENCODING.md declares, read from its tables: structures, enumerations, types of signed messages."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "ENCODING.md"


@dataclass(frozen=True)
class Structure:
    """One table of fields. `version` is the first byte of its encoding, None where it stands inside others only."""

    name: str
    code: str
    version: int | None
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    structures: dict[str, Structure]
    enums: dict[str, dict[int, str]]
    enum_codes: dict[str, str]
    messages: dict[int, str]


def _rows(section: str, heading: str) -> list[list[str]]:
    """The cells of the table under this heading row; none where the section has no such table."""
    rows: list[list[str]] = []
    inside = False
    for line in section.splitlines():
        if line.startswith(heading):
            inside = True
        elif inside and not line.startswith("|"):
            break
        elif inside and not line.startswith("|---"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return rows


def _code_of(section: str) -> str:
    found = re.search(r"^`([a-z_.]+\.[A-Z]\w+)`", section, re.MULTILINE)
    return found[1] if found else ""


@lru_cache(maxsize=1)
def read_page() -> Page:
    text = PAGE.read_text()
    page = Page({}, {}, {}, {})
    for title, section in re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL):
        if title.startswith("enum "):
            rows = _rows(section, "| value | name |")
            page.enums[title.removeprefix("enum ")] = {int(value): name for value, name in rows}
            page.enum_codes[title.removeprefix("enum ")] = _code_of(section)
        elif rows := _rows(section, "| field | type |"):
            version = re.search(r"^`[\w.]+`, version (\d+)", section, re.MULTILINE)
            fields = tuple((row[0], row[1]) for row in rows)
            page.structures[title] = Structure(title, _code_of(section), int(version[1]) if version else None, fields)
    for row in _rows(text, "| type | name | body |"):
        page.messages[int(row[0])] = row[1]
    return page
