"""The receiving end of sd_notify."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aistack.dev.notify import Notice, NotifySocket, microseconds, parse


def test_a_datagram_is_read_line_by_line() -> None:
    assert parse(b"READY=1\nSTATUS=a = b\nnonsense\n=x\n") == {"READY": "1", "STATUS": "a = b"}


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(raw: bytes) -> None:
    assert all(name for name in parse(raw))


@given(st.text(max_size=30) | st.text("0123456789²٣", min_size=18, max_size=400))
def test_a_time_is_a_number_of_64_bits_or_nothing(value: str) -> None:
    seconds = microseconds(value)
    plain = value.isascii() and value.isdigit() and len(value) <= 20
    assert seconds == (int(value) / 1e6 if plain else None)


async def test_the_sender_is_named_by_the_kernel(tmp_path: Path) -> None:
    heard: asyncio.Queue[Notice] = asyncio.Queue()
    notify = NotifySocket(tmp_path / "n.sock", heard.put_nowait)
    try:
        assert stat.S_IMODE((tmp_path / "n.sock").stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"READY=1", str(tmp_path / "n.sock"))
            client.sendto(b"WATCHDOG=1", str(tmp_path / "n.sock"))
        async with asyncio.timeout(5):
            notices = [await heard.get(), await heard.get()]
    finally:
        notify.close()
    assert notices == [
        Notice(os.getpid(), {"READY": "1"}),
        Notice(os.getpid(), {"WATCHDOG": "1"}),
    ]
    assert not (tmp_path / "n.sock").exists()
