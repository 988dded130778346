"""SageMaker's List operations, all alike: filters, order, pages."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime

from orchestrator.sandbox.errors import AwsError

USUAL_PAGE = 10
FILTERS = (
    "NameContains", "CreationTimeAfter", "CreationTimeBefore", "SortBy", "SortOrder",
    "MaxResults", "NextToken",
)  # fmt: skip


def page(
    rows: list[dict], request: dict, summary: Callable[[dict], dict], plural: str, noun: str
) -> dict:
    """One page of a listing.

    `rows` of the state, `summary` what of each is told, under `plural`; `noun` is the prefix of the
    summary's name. Sorted by creation time, the latest first, unless the request says otherwise.
    """
    name = f"{noun}Name"
    found = [summary(row) for row in rows]
    for key, keep in {
        "NameContains": lambda item, value: value.lower() in item[name].lower(),
        "CreationTimeAfter": lambda item, value: item["CreationTime"] > _moment(value),
        "CreationTimeBefore": lambda item, value: item["CreationTime"] < _moment(value),
        "LastModifiedTimeAfter": lambda item, value: item["LastModifiedTime"] > _moment(value),
        "LastModifiedTimeBefore": lambda item, value: item["LastModifiedTime"] < _moment(value),
        "StatusEquals": lambda item, value: item[f"{noun}Status"] == value,
    }.items():
        if key in request:
            found = [item for item in found if keep(item, request[key])]
    order = {"Name": name, "Status": f"{noun}Status"}.get(request.get("SortBy"), "CreationTime")
    descending = request.get("SortOrder", "Descending") == "Descending"

    def place(item: dict) -> list[str]:
        return [item[order], item[name]]

    if "NextToken" in request:
        last = _place(request["NextToken"])
        found = [
            item for item in found if place(item) != last and (place(item) < last) == descending
        ]
    found.sort(key=place, reverse=descending)
    size = request.get("MaxResults", USUAL_PAGE)
    answer = {plural: found[:size]}
    if size < len(found):
        # The place of the last one, not its number: what is made meanwhile moves no page.
        answer["NextToken"] = base64.b64encode(json.dumps(place(found[size - 1])).encode()).decode()
    return answer


def _moment(value: datetime) -> str:
    """As the state writes it."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds")


def _place(token: str) -> list[str]:
    try:
        place = json.loads(base64.b64decode(token, validate=True))
    except ValueError:
        place = None
    if isinstance(place, list) and len(place) == 2 and all(isinstance(p, str) for p in place):
        return place
    raise AwsError("ValidationException", "The NextToken is none of ours.")
