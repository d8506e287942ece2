"""What libraries log during an outage stays readable, and what an error quotes is not written."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from runtime.log import MOST_MESSAGES, QUIET_S, Sparing


def record(message: str, *values: object, name: str = "aiokafka.conn") -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, values, None)


def test_the_same_message_is_told_once_in_a_while_and_another_one_at_once() -> None:
    """The message is the template: that its values differ does not make it news."""
    now = [100.0]
    sparing = Sparing(lambda: now[0])
    assert sparing.filter(record("Unable to connect to %s", "a"))
    assert not sparing.filter(record("Unable to connect to %s", "b"))
    assert sparing.filter(record("Group is dead"))
    assert sparing.filter(record("Unable to connect to %s", "a", name="aiokafka.cluster"))
    now[0] += QUIET_S
    assert sparing.filter(record("Unable to connect to %s", "a"))


def test_what_is_remembered_is_bounded() -> None:
    sparing = Sparing(lambda: 0.0)
    assert all(sparing.filter(record(f"message {number}")) for number in range(3 * MOST_MESSAGES))
    assert len(sparing._next) <= MOST_MESSAGES


LOGGING = """
from runtime.log import configure_logging, get_logger

configure_logging("a test")
for number in range(1000):
    get_logger("part").error("something", number=number)
print("went on")
"""


def test_a_disk_that_is_full_costs_lines_of_the_log_and_ends_nobody() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-c", LOGGING], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert ran.stdout == "went on\n"


FAILING = """
import asyncio, logging
from runtime.log import configure_logging, get_logger
from runtime.process import run_process
from runtime.settings import Settings

def look_up():
    try:
        {}["Smith of the claim"]
    except KeyError as error:
        raise ValueError("no such person: Smith of the claim") from error

async def main(stop):
    log = get_logger("test")
    for write in (log.exception, logging.getLogger("library").exception):
        try:
            look_up()
        except ValueError:
            write("failed")
    asyncio.get_running_loop().create_task(asyncio.to_thread(look_up))
    await asyncio.sleep(0.05)
    {}[("Smith of the claim",)]

run_process("test", Settings(metrics_port=0, log_format="json"), main)
"""


def test_an_error_is_logged_with_its_places_and_causes_and_not_with_what_it_quotes() -> None:
    """By our loggers, by a library's, by asyncio for a task that nobody awaited, and where it ends the process."""
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Smith" not in done.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == [
        "failed",
        "failed",
        "Task exception was never retrieved",
        "process_failed",
    ]
    for line in lines[:3]:
        first, caused = line["exception"].split("\ncaused by ")
        assert (first.splitlines()[0], caused.splitlines()[0]) == ("builtins.ValueError", "builtins.KeyError")
        assert "in look_up" in first
    assert (lines[3]["type"], lines[3]["error"]) == ("KeyError", "")
    assert "in main" in lines[3]["exception"]
