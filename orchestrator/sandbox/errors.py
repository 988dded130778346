"""What the sandbox answers when it cannot do as asked, with AWS's own codes and sentences.

AwsError                     code, message and HTTP status, as the service would send them
└── ResourceFailed           a resource of a stack could not be made real: the stack fails
"""

import re

# What XML cannot carry, and what is no text at all: one such character in a reason would make
# every later answer that holds it unreadable.
UNCLEAN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    return UNCLEAN.sub("\N{REPLACEMENT CHARACTER}", text)


class AwsError(Exception):
    def __init__(self, code: str, message: str, status: int = 400) -> None:
        message = clean(message)
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class ResourceFailed(AwsError):
    """`physical_id` is what it is to be deleted by, where it got a name before it failed."""

    def __init__(self, message: str, physical_id: str | None = None) -> None:
        super().__init__("GeneralServiceException", message)
        self.physical_id = physical_id
