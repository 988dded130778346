"""Errors that a user can mend, and how a script ends.

    UserError                   one line, exit code 1
    ├── BadParams               params.yaml
    ├── BadData                 a candidate file
    ├── GateFailed              the model is not good enough to be packaged
    └── TargetError             the sandbox or AWS: not there, refused, not as asked

A UserError says what is wrong and where, and what to type next. DEBUG=1 adds the trace.
"""

import os
import sys
import traceback
from collections.abc import Callable


class UserError(Exception):
    """`what` is wrong; `remedy` is the command or change that helps."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy


class BadParams(UserError):
    pass


class BadData(UserError):
    pass


class GateFailed(UserError):
    pass


class TargetError(UserError):
    pass


def run(main: Callable[[], int | None]) -> None:
    """Run a script's main(): a UserError becomes two lines on stderr and exit code 1."""
    try:
        sys.exit(main())
    except UserError as error:
        if os.environ.get("DEBUG"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        if error.remedy:
            print(f"  next: {error.remedy}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # `… | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        if os.environ.get("DEBUG"):
            traceback.print_exc()
        named = f"{error.filename}: " if error.filename else ""
        print(f"error: {named}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
