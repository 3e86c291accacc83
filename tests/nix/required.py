"""What a test of the NixOS side does where this machine lacks a tool.

It is skipped with the reason. With AISTACK_NIX_TEST=require, as CI has it, that is a failure: a run
in which nothing could be checked is not green.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import pytest

from nix.debian import UnavailableError

#: Set to `require` to make a test that cannot run here fail instead of being skipped.
REQUIRE = "AISTACK_NIX_TEST"


def unavailable(reason: str) -> NoReturn:
    """Skip with the reason, or fail where these tests are required."""
    if os.environ.get(REQUIRE) == "require":
        pytest.fail(f"required by {REQUIRE}: {reason}")
    pytest.skip(reason)


@contextmanager
def needed() -> Iterator[None]:
    """What is had inside is what the test needs: without it the test is skipped, or fails."""
    try:
        yield
    except UnavailableError as error:
        unavailable(str(error))
