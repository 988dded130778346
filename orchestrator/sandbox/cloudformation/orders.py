"""What a request makes of a stack: its template, found, checked and expanded by its parameters; and
how long lists are told in pages."""

import base64
import json
import re
from collections.abc import Callable, Collection
from urllib.parse import parse_qs, unquote, urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.environment import client
from orchestrator.sandbox.cloudformation import parameters
from orchestrator.sandbox.cloudformation import template as templates
from orchestrator.sandbox.errors import AwsError

TEMPLATE = ("TemplateBody", "TemplateURL")
GIVEN = ("ParameterKey", "ParameterValue", "UsePreviousValue")
ORDER = (*TEMPLATE, *(f"Parameters.{key}" for key in GIVEN), "Capabilities", "RoleARN", "Tags")
PAGE = 100
MAX_OBJECT = 1024 * 1024
S3_HOST = re.compile(r"(?:([a-z0-9.-]+)\.)?s3[a-z0-9.-]*\.amazonaws\.com")

Attributes = Callable[[str], Collection[str] | None]


def read(request: dict, attributes: Attributes, stack: dict | None = None) -> tuple[str, dict]:
    """The template that a request names, as it was sent and as it was read and checked."""
    body = _body(request, stack)
    template = templates.parse(body)
    templates.check(template, attributes)
    return body, template


def planned(
    request: dict, attributes: Attributes, stack_id: str, stack: dict | None = None
) -> tuple[dict, dict]:
    """The expanded template of a new stack, or of an update of `stack`; and what is kept of the
    request: for a parameter or a tag that it does not name, the stack's own."""
    body, template = read(request, attributes, stack)
    declared = template.get("Parameters", {})
    before = stack["request"] if stack else {}
    previous = before.get("Parameters", {}) if stack else None
    texts = parameters.given(declared, request.get("Parameters", []), previous)
    kept = {
        "TemplateBody": body,
        "Parameters": texts,
        "Shown": parameters.shown(declared, texts),
        "Tags": request.get("Tags", before.get("Tags", [])),
        "RoleARN": request.get("RoleARN", before.get("RoleARN")),
        "Capabilities": request.get("Capabilities", []),
    }
    return templates.expand(template, texts, stack_id), kept


def _body(request: dict, stack: dict | None) -> str:
    previous = request.get("UsePreviousTemplate", False)
    ways = [key for key in TEMPLATE if key in request] + ["UsePreviousTemplate"] * previous
    if len(ways) != 1:
        one = "one of TemplateBody, TemplateURL and UsePreviousTemplate"
        raise _bad(f"Either Template URL or Template Body must be specified: {one}.")
    if ways == ["UsePreviousTemplate"]:
        if stack is None:
            raise _bad("UsePreviousTemplate is for a stack that exists.")
        return stack["request"]["TemplateBody"]
    if ways == ["TemplateURL"]:
        return _fetched(request["TemplateURL"])
    if len(request["TemplateBody"]) > templates.MAX_CHARACTERS:
        raise _bad(
            "1 validation error detected: Value at 'templateBody' failed to satisfy constraint: "
            f"Member must have length less than or equal to {templates.MAX_CHARACTERS}"
        )
    return request["TemplateBody"]


def _fetched(url: str) -> str:
    """A template in S3, which may be larger than one in a request."""
    parts, s3 = urlsplit(url), client("s3")
    on_aws = S3_HOST.fullmatch(parts.hostname or "")
    ours = urlsplit(s3.meta.endpoint_url).netloc == parts.netloc
    query = parse_qs(parts.query)
    if not (on_aws or ours) or query.keys() - {"versionId"}:
        raise _bad("TemplateURL must be a supported URL.")
    bucket, path = on_aws and on_aws[1], unquote(parts.path).removeprefix("/")
    if not bucket:
        bucket, _, path = path.partition("/")
    version = {"VersionId": query["versionId"][0]} if query else {}
    try:
        answer = s3.get_object(Bucket=bucket, Key=path, **version)
        content = answer["Body"].read(MAX_OBJECT + 1)
    except (ClientError, BotoCoreError) as error:
        raise _bad(f"S3 error: {error}") from None
    if len(content) > MAX_OBJECT:
        raise _bad(f"Template may not exceed {MAX_OBJECT} bytes in size.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _bad("Template format error: the template is no UTF-8.") from None


def page(
    items: list, key: Callable[[dict], object], request: dict, newest_first: bool = False
) -> tuple[list, str | None]:
    """One page of the items, and the token of the next. The token is the key of the last one that was
    told: what comes and goes between two pages neither hides nor doubles another."""
    items = sorted(items, key=key, reverse=newest_first)
    if "NextToken" in request:
        try:
            last = json.loads(base64.b64decode(request["NextToken"], validate=True))
            items = [i for i in items if (key(i) < last if newest_first else key(i) > last)]
        except (ValueError, TypeError, RecursionError):
            raise _bad("The NextToken is none of ours.") from None
    token = None
    if len(items) > PAGE:
        token = base64.b64encode(json.dumps(key(items[PAGE - 1])).encode()).decode()
    return items[:PAGE], token


def by_age(row: dict) -> list[str]:
    """The key of rows that are told the newest first."""
    return [row["created"], row["id"]]


def _bad(message: str) -> AwsError:
    return AwsError("ValidationException", message)
