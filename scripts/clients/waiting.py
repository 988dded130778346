"""Waiting for what a target does, with a line that says how it goes."""

import sys
import time
from collections.abc import Callable

from common.errors import TargetError

POLL_SECONDS = 0.5


def wait(look: Callable[[], tuple[dict | None, str]], timeout: float, late: str) -> dict:
    """Look again and again until there is an end; what it is.

    `look` gives the end, None before it, and words for where it is until then. TargetError, beginning
    with `late`, when there is none after `timeout` seconds.
    """
    began, live = time.monotonic(), sys.stderr.isatty()
    while True:
        end, where = look()
        seconds = time.monotonic() - began
        if end is not None:
            if live:
                print("\r\033[K", end="", file=sys.stderr)
            return end
        if seconds > timeout:
            raise TargetError(f"{late} after {timeout:.0f} s", "make status")
        if live:
            print(f"\r\033[K{where}, {seconds:.0f} s", end="", file=sys.stderr, flush=True)
        time.sleep(POLL_SECONDS)
