"""What libraries log during an outage stays readable."""

import logging

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
