"""Texts that a peer supplies reach a terminal or a log only where they cannot speak to it."""

from collections.abc import Iterator
from typing import Annotated

import pytest
import zmq
from msgspec import Meta, Struct

import snapring
from command import LONG
from command import snapring as command
from pyzmq_sender import opened
from support import eventually

HOSTILE = "a\x1b[2Jb\r\nrank 1 LIVE\x07\u202e[red]c\x9b0m"
"""Clears the screen, forges a line, rings, writes backwards and names a style."""


class Note(Struct, frozen=True):
    """Carries a text of the peer's choice."""

    text: Annotated[str, Meta(max_length=100)] = ""


@pytest.fixture
def relay(ring_dir: object) -> Iterator[snapring.Relay]:
    """A relay whose rank 0 sent the hostile text."""
    reader = snapring.Reader("far", schema=Note)
    with (
        snapring.Relay("far", ranks=2, schema=Note) as relay,
        snapring.RemoteWriter(relay.endpoint or "", 0, 2, schema=Note) as writer,
    ):
        writer.publish(Note(HOSTILE))
        eventually(lambda: (snap := reader.read(0)) is not None and snap.value.text == HOSTILE)
        yield relay


@pytest.mark.usefixtures("relay")
@pytest.mark.parametrize(
    "arguments", [("get", "far"), ("get", "far", "--json"), ("watch", "far", "--count", "1"), ("top", "far", "--once")]
)
def test_commands_show_texts_without_their_effects(arguments: tuple[str, ...]) -> None:
    """Every character that a command prints is visible, and what stands on a line is on that line."""
    done = command(*arguments, *LONG)

    assert (done.returncode, done.stderr) == (0, "")
    allowed = "\n\u202e\x9b" if "--json" in arguments else "\n"  # JSON text escapes only what it must
    assert [character for character in done.stdout if not character.isprintable() and character not in allowed] == []
    assert not any(line.startswith("rank 1 LIVE") for line in done.stdout.splitlines())


def test_what_a_relay_says_has_nothing_of_a_peer(relay: snapring.Relay) -> None:
    """Whatever a peer sends, the relay's own words come from itself."""
    with opened(zmq.PUSH) as push:
        push.connect(relay.endpoint or "")
        push.send(HOSTILE.encode())
        push.send(b"SNAPWIRE" + HOSTILE.encode() * 9)

        eventually(lambda: relay.stats()["undecodable"] == 2)

    said = f"{relay!r} {relay.last_error} {relay.stats()}"
    assert "\x1b" not in said
    assert "LIVE" not in said
