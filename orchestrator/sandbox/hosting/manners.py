"""How a process that has time makes room for those that answer."""

import contextlib
import os
from pathlib import Path

NICE = 10  # a tenth of the share of those that answer: they come first, and it still gets on


def be_modest() -> None:
    """Leave the processor to others, mostly. Linux shares it out among sessions first, where it
    groups processes by them, so that the session has to be modest as well."""
    os.nice(NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(NICE))
    if hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
