"""What a command prints: tables and lines for people, one JSON document a line for scripts."""

import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


class Output:
    """`as_json` prints documents to standard output and nothing else there."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        # What is shown comes from claims and errors: `lines[a]` is a place there and no style.
        self._console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._aside = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def say(self, text: str) -> None:
        """A line for people; silent with --json."""
        if not self.as_json:
            self._console.print(text)

    def error(self, text: str) -> None:
        """To standard error, in either form."""
        if self.as_json:
            print(json.dumps({"error": text}), file=sys.stderr)
        else:
            self._aside.print(f"error: {text}", style="red")

    def document(self, document: Mapping[str, Any], text: str = "") -> None:
        """One document, or its text for people."""
        if self.as_json:
            print(json.dumps(document), flush=True)
        else:
            self._console.print(text or "  ".join(f"{k}={v}" for k, v in document.items()))

    def table(self, title: str, rows: Sequence[Mapping[str, Any]], empty: str = "nothing") -> None:
        """Rows with the same keys."""
        if self.as_json:
            for row in rows:
                print(json.dumps(row), flush=True)
            return
        if not rows:
            self._console.print(f"{title}: {empty}")
            return
        table = Table(
            title=title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
            show_edge=False,
        )
        for name in rows[0]:
            number = any(_is_number(row[name]) for row in rows)
            table.add_column(name.replace("_", " "), justify="right" if number else "left", no_wrap=number)
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        self._console.print(table)

    def aside(self, text: str) -> None:
        """A remark for people, on standard error; silent with --json."""
        if not self.as_json:
            self._aside.print(text)

    def progress(self) -> Progress:
        """A progress bar on standard error."""
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        return Progress(*columns, console=self._aside, transient=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def when(time_ms: int) -> str:
    """Local time of day with milliseconds."""
    return datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]


def dollars(cents: int) -> str:
    """An amount in the ledger's currency, for people."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100:,}.{abs(cents) % 100:02d}"
