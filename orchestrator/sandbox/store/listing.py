"""ListObjects in S3's order, from a store that lists by folder.

S3 lists keys in the order of their bytes, so that `data-2/x` and `data.csv` come before `data/x`. The
store goes through folders by name: `data/x`, `data-2/x`, `data.csv`. Tools that merge two listings
(`aws s3 sync`) take the difference for missing files, and with --delete remove what they have just
copied. A listing of up to a thousand keys is fetched whole and sorted; a larger one is put together
folder by folder, each in the right order.

The store also goes on listing a folder for some minutes after its last key was deleted; here a folder
is only listed when there is a key in it.
"""

import base64
import heapq
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_plus
from xml.sax.saxutils import escape

from defusedxml import ElementTree

from orchestrator.sandbox.errors import clean
from orchestrator.sandbox.store.rules import S3Error, why_not_below

PAGE = 1000
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
LAST = "\U0010ffff"  # after every character of a key
FIELDS = ("LastModified", "ETag", "Size", "StorageClass")

Fetch = Callable[[dict[str, str]], Awaitable[bytes]]  # the store's answer to a ListObjectsV2


@dataclass(frozen=True, order=True)
class Item:
    """A key with what the store says of it, or a common prefix."""

    key: str
    is_prefix: bool = False
    fields: dict[str, str] = field(default_factory=dict, compare=False)
    owner: str = field(default="", compare=False)


class Listing:
    """One bucket's keys, in S3's order."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def items(self, prefix: str, delimiter: str, after: str) -> AsyncIterator[Item]:
        """Keys that begin with `prefix` and come after `after`; those that have the delimiter
        behind the prefix are put together as common prefixes."""
        everything, more = await self._page({"prefix": prefix})
        if more is None:
            keys = sorted(item for item in everything if item.key > after)
            source = _each(keys)
        elif delimiter == "/":
            source = self._folder(prefix, after, whole=False)
        else:
            source = self._folder(prefix, after, whole=True)
        last = None
        async for item in source:
            if item.is_prefix or not delimiter:
                yield item
                continue
            end = item.key.find(delimiter, len(prefix))
            if end < 0:
                yield item
            elif item.key[: end + len(delimiter)] != last:
                last = item.key[: end + len(delimiter)]
                yield Item(last, is_prefix=True)

    async def _folder(self, prefix: str, after: str, whole: bool) -> AsyncIterator[Item]:
        """A folder's keys, those of its own folders among them (`whole`) or as prefixes."""
        folder = prefix[: prefix.rfind("/") + 1]
        if after >= folder and not after.startswith(folder):
            return  # it lies before `after`
        name = after[len(folder) :].partition("/")[0] if after.startswith(folder) else ""
        waiting = [item async for item in self._before(folder, name, prefix)]
        heapq.heapify(waiting)
        async for entry in self._entries(prefix, folder + name[:-1] if name[:-1] else ""):
            # Whatever comes later has a name that is not before this one's.
            raw = entry.key.removesuffix("/") if entry.is_prefix else entry.key
            while waiting and waiting[0].key < raw:
                async for item in self._open(heapq.heappop(waiting), after, whole):
                    yield item
            heapq.heappush(waiting, entry)
        while waiting:
            async for item in self._open(heapq.heappop(waiting), after, whole):
                yield item

    async def _open(self, entry: Item, after: str, whole: bool) -> AsyncIterator[Item]:
        """What an entry of a folder comes to, if it lies after `after`."""
        if not entry.is_prefix:
            if entry.key > after:
                yield entry
            return
        if entry.key < after and not after.startswith(entry.key):
            return
        if not whole and not after.startswith(entry.key):
            found, _ = await self._page({"prefix": entry.key, "max-keys": "1"})
            if found:
                yield entry
            return
        async for item in self._folder(entry.key, after, whole=True):
            if not whole:
                yield entry
                return
            yield item

    async def _before(self, folder: str, name: str, prefix: str) -> AsyncIterator[Item]:
        """Folders that the store lists before `name`, though their keys come after it: `data/`,
        when one goes on at `data.csv`."""
        for length in range(1, len(name)):
            place = f"{folder}{name[:length]}/"
            if name[length] < "/" and place.startswith(prefix):
                found, _ = await self._page({"prefix": place, "max-keys": "1"})
                if found:
                    yield Item(place, is_prefix=True)

    async def _entries(self, prefix: str, start: str) -> AsyncIterator[Item]:
        """The entries of one folder by name, as the store lists them."""
        query = {"prefix": prefix, "delimiter": "/"}
        if start:
            query["start-after"] = start
        while True:
            found, token = await self._page(query)
            for item in sorted(found, key=lambda item: item.key.removesuffix("/")):
                yield item
            if token is None:
                return
            query = {"prefix": prefix, "delimiter": "/", "continuation-token": token}

    async def _page(self, query: dict[str, str]) -> tuple[list[Item], str | None]:
        """One answer of the store's: its items, and the token of the next one."""
        usual = {
            "list-type": "2",
            "encoding-type": "url",
            "max-keys": str(PAGE),
            "fetch-owner": "true",
        }
        root = ElementTree.fromstring(await self._fetch(usual | query))
        found = []
        for element in root:
            fields = {_local(child): child.text or "" for child in element}
            if _local(element) == "Contents":
                owner = element.find(f"{{{NAMESPACE}}}Owner")
                owner = "" if owner is None else "".join(owner.itertext()).strip()
                kept = {name: fields[name] for name in FIELDS if name in fields}
                found.append(Item(unquote_plus(fields["Key"]), fields=kept, owner=owner))
            elif _local(element) == "CommonPrefixes":
                found.append(Item(unquote_plus(fields["Prefix"]), is_prefix=True))
        token = root.findtext(f"{{{NAMESPACE}}}NextContinuationToken")
        return found, token if root.findtext(f"{{{NAMESPACE}}}IsTruncated") == "true" else None


async def has(fetch: Fetch, key: str) -> bool:
    """Whether there is an object of exactly this name, and not only others that begin with it."""
    found, _ = await Listing(fetch)._page({"prefix": key, "max-keys": "1"})
    return any(item.key == key for item in found)


async def _each(items: list[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item


def _local(element) -> str:
    return element.tag.rpartition("}")[2]


# -- the answer -----------------------------------------------------------------------


async def answer(fetch: Fetch, bucket: str, query: dict[str, str]) -> bytes:
    """The answer to a ListObjects or ListObjectsV2 request."""
    second = "list-type" in query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    count = _count(query.get("max-keys", str(PAGE)))
    if query.get("encoding-type", "url") != "url":
        raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request")
    if "continuation-token" in query:
        after = _key_of(query["continuation-token"])
    else:
        after = query.get("start-after" if second else "marker", "")
        if not second and delimiter and after.endswith(delimiter):
            after += LAST  # the marker is a common prefix that was listed
    items: list[Item] = []
    truncated = False
    if count and _can_be(prefix):
        async for item in Listing(fetch).items(prefix, delimiter, after):
            if len(items) == count:
                truncated = True
                break
            # What a marker names has been listed; a prefix covers all that begins with it.
            if not (item.is_prefix and after.startswith(item.key) and after.endswith(LAST)):
                items.append(item)
    else:
        await fetch({"list-type": "2", "max-keys": "1"})  # whether there is such a bucket
    return _xml(query, bucket, count, items, truncated)


def _can_be(prefix: str) -> bool:
    """Whether the store can have a key with this prefix; it would find others instead."""
    *folders, name = prefix.split("/")
    known = folders + ([name] if name not in ("", ".", "..") else [])
    return why_not_below(known or ["x"], prefix) is None


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise S3Error(
            "InvalidArgument", "Argument max-keys must be an integer between 0 and 2147483647"
        )
    return min(int(text), PAGE)


def _token_of(item: Item) -> str:
    last = item.key + (LAST if item.is_prefix else "")
    return base64.urlsafe_b64encode(last.encode()).decode()


def _key_of(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token.encode()).decode() or _no_token()
    except ValueError:
        return _no_token()


def _no_token() -> str:
    raise S3Error("InvalidArgument", "The continuation token provided is incorrect")


def _xml(
    query: dict[str, str], bucket: str, count: int, items: list[Item], truncated: bool
) -> bytes:
    second, encodes = "list-type" in query, "encoding-type" in query
    written: list[str] = []

    def write(name: str, value: str, coded: bool = False) -> None:
        value = quote(value, safe="/") if coded and encodes else value
        written.append(f"<{name}>{escape(clean(value))}</{name}>")

    write("Name", bucket)
    write("Prefix", query.get("prefix", ""), coded=True)
    for name in ("StartAfter", "ContinuationToken") if second else ("Marker",):
        key = {"StartAfter": "start-after", "ContinuationToken": "continuation-token"}.get(name)
        if key is None or key in query:
            write(name, query.get(key or "marker", ""), coded=name != "ContinuationToken")
    if query.get("delimiter"):
        write("Delimiter", query["delimiter"], coded=True)
    write("MaxKeys", str(count))
    if encodes:
        write("EncodingType", "url")
    if second:
        write("KeyCount", str(len(items)))
    write("IsTruncated", "true" if truncated else "false")
    if truncated and second:
        write("NextContinuationToken", _token_of(items[-1]))
    elif truncated and query.get("delimiter"):
        write("NextMarker", items[-1].key, coded=True)
    for item in items:
        if item.is_prefix:
            written.append("<CommonPrefixes>")
            write("Prefix", item.key, coded=True)
            written.append("</CommonPrefixes>")
            continue
        written.append("<Contents>")
        write("Key", item.key, coded=True)
        for name, value in item.fields.items():
            write(name, value)
        if not second or query.get("fetch-owner") == "true":
            owner = escape(clean(item.owner))
            written.append(f"<Owner><ID>{owner}</ID><DisplayName>{owner}</DisplayName></Owner>")
        written.append("</Contents>")
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return f'{head}<ListBucketResult xmlns="{NAMESPACE}">{"".join(written)}</ListBucketResult>'.encode()
