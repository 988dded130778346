"""What the sandbox answers when it cannot do as asked, with AWS's own codes and sentences.

AwsError                     code, message and HTTP status, as the service would send them
└── ResourceFailed           a resource of a stack could not be made real: the stack fails
"""


class AwsError(Exception):
    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class ResourceFailed(AwsError):
    def __init__(self, message: str) -> None:
        super().__init__("GeneralServiceException", message)
