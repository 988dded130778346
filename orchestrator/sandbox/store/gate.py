"""The gate in front of the store: the only address of S3 that clients see.

Every request is checked as every other service's is (gate.py above), read by the rules of what the
store does right (rules.py), and signed anew with keys that only the gate has. Bodies stream through,
both ways, a piece at a time.
"""

import asyncio
import logging
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlencode
from xml.sax.saxutils import escape

import aiohttp
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException
from yarl import URL

from orchestrator.sandbox import web
from orchestrator.sandbox.errors import clean
from orchestrator.sandbox.gate import ALGORITHM, Gate, Refused, Scope, moment, scope_of
from orchestrator.sandbox.store import bodies, forms, listing, rules
from orchestrator.sandbox.store.bodies import BadBody, Chunks, Upload
from orchestrator.sandbox.store.rules import Request, S3Error
from orchestrator.sandbox.store.seaweed import Seaweed, encoded
from orchestrator.sandbox.store.turns import Turns
from orchestrator.sandbox.web import Disconnected

log = logging.getLogger("store")

WAIT_SECONDS = 20  # for a store that is being started again
XML_BYTES = 4 << 20  # of a request that is a document
FULL_BYTES = 4 << 20  # with less than that left, a failed upload is the disk's fault
HASH = re.compile(r"[0-9a-f]{64}")
PRESIGNED = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires",
             "X-Amz-SignedHeaders", "X-Amz-Signature")  # fmt: skip
LONGEST_SECONDS = 7 * 24 * 3600  # that a presigned URL is good for
NOT_ANSWERED = ("connection", "keep-alive", "transfer-encoding", "server", "date")
COPIED = (*NOT_ANSWERED, "content-length", "content-type")  # what its answer says anew
UNQUOTED = re.compile(rb"<ETag>([0-9a-f-]+)</ETag>")


class Unavailable(Exception):
    """The store is not there, or went away in the middle."""


@dataclass(frozen=True)
class Claim:
    """A verified signature: its scope and time, what it says of the body, the query without it."""

    scope: Scope
    time: str
    body_hash: str
    query: str


class StoreGate:
    """The ASGI application."""

    def __init__(self, gate: Gate, weed: Seaweed, data: Path, up: asyncio.Event) -> None:
        """`data` is a folder on the store's disk; `up` is set while the store can be asked."""
        self._gate = gate
        self._weed = weed
        self._data = data
        self._up = up
        self._turns = Turns()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def __call__(self, scope, receive, send) -> None:
        path = scope["raw_path"].decode("latin-1")
        begun = read = False

        async def noting_begin(message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        async def noting_end() -> dict:
            nonlocal read
            message = await receive()
            read = not message.get("more_body")
            return message

        try:
            await self._serve(scope, path, noting_end, noting_begin)
            return
        except Disconnected:
            return
        except S3Error as error:
            answer = refusal(error.status, error.code, str(error), path)
        except BadBody as error:
            answer = refusal(
                403 if "Signature" in error.code else 400, error.code, str(error), path
            )
        except Refused as error:
            status = (
                400 if error.s3_code in ("AuthorizationHeaderMalformed", "InvalidToken") else 403
            )
            answer = refusal(status, error.s3_code, error.message, path)
        except (Unavailable, TimeoutError, aiohttp.ClientError, OSError) as error:
            log.warning("%s %s: %s", scope["method"], path, error)
            answer = refusal(503, "ServiceUnavailable", "The store is being started again.", path)
        except Exception:
            log.exception("%s %s", scope["method"], path)
            answer = refusal(500, "InternalError", "The gate could not do it; see the log.", path)
        if begun:
            return  # the client must not take half an answer for a whole one
        if not read and not await web.is_over(scope, noting_end):
            answer = replace(answer, headers={"Connection": "close"})
        await web.send_answer(send, answer, with_body=scope["method"] != "HEAD")

    async def _serve(self, scope, path: str, receive, send) -> None:
        method, headers = scope["method"], web.headers_of(scope)
        query = scope["query_string"].decode("latin-1")
        if method == "POST" and headers.get("content-type", "").startswith("multipart/form-data"):
            await self._take_form(path, headers, receive, send)
            return
        claim = self._check(method, path, query, headers)
        request = rules.read(method, path, claim.query, headers)
        await self._is_up()
        if request.operation in ("ListObjects", "ListObjectsV2"):
            content = await listing.answer(self._lister(request), request.bucket, request.query)
            await web.send_answer(send, web.Answer(200, "application/xml", content))
            return
        body, more = await self._body(request, headers, claim, receive)
        await self._pass_on(method, request, body, more, send)

    # -- who asks ----------------------------------------------------------------------

    def _check(self, method: str, path: str, query: str, headers: dict[str, str]) -> Claim:
        """Verify a request's signature, in its headers or in its URL."""
        authorization = headers.get("authorization")
        if authorization is None:
            if "Signature=" in query:
                return self._check_presigned(method, path, query, headers)
            raise S3Error("AccessDenied", "Access Denied", 403)
        if not authorization.startswith(ALGORITHM):
            raise S3Error("InvalidRequest", UNSUPPORTED)
        body_hash = headers.get("x-amz-content-sha256", "")
        _check_hash(body_hash)
        claim = scope_of(headers)
        self._gate.check(method, path, query, headers, body_hash, claim, "s3")
        return Claim(claim, headers["x-amz-date"], body_hash, query)

    def _check_presigned(
        self, method: str, path: str, query: str, headers: dict[str, str]
    ) -> Claim:
        pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
        values = dict(pairs)
        if "X-Amz-Signature" not in values:  # version 2
            raise S3Error("InvalidRequest", UNSUPPORTED)
        if any(name not in values for name in PRESIGNED) or len(values) != len(pairs):
            message = "Query-string authentication version 4 requires " + ", ".join(PRESIGNED)
            raise S3Error("AuthorizationQueryParametersError", message)
        if values["X-Amz-Algorithm"] != ALGORITHM:
            message = f"X-Amz-Algorithm only supports {ALGORITHM}"
            raise S3Error("AuthorizationQueryParametersError", message)
        if "X-Amz-Security-Token" in values:  # we give out none
            raise S3Error("InvalidToken", "The provided token is malformed or otherwise invalid.")
        names, signature = values["X-Amz-SignedHeaders"], values["X-Amz-Signature"]
        scope = Scope(*_credential(values["X-Amz-Credential"]), names, signature)
        made = values["X-Amz-Date"]
        self._gate.check_scope(scope, made, "s3")
        _check_expiry(made, values["X-Amz-Expires"])
        body_hash = headers.get("x-amz-content-sha256", bodies.UNSIGNED)
        _check_hash(body_hash)
        kept = _query(pair for pair in pairs if pair[0] != "X-Amz-Signature")
        # The hash of the body is no part of what a URL is signed for.
        unsigned = bodies.UNSIGNED
        self._gate.check_canonical(method, path, kept, headers, unsigned, scope, made, "s3")
        rest = urlencode([pair for pair in pairs if not pair[0].startswith("X-Amz-")])
        return Claim(scope, made, body_hash, rest)

    # -- what comes in -----------------------------------------------------------------

    async def _body(
        self, request: Request, headers: dict[str, str], claim: Claim, receive
    ) -> tuple[Upload | bytes | None, dict[str, str]]:
        """The body as it is to go on, and the headers that go with it."""
        length = headers.get("content-length", "0" if request.takes_no_body else None)
        if claim.body_hash in bodies.CHUNKED:
            length = headers.get("x-amz-decoded-content-length")
        if length is None or not length.isdecimal():
            message = "You must provide the Content-Length HTTP header."
            raise S3Error("MissingContentLength", message, 411)
        if request.operation == "PutObject" and request.key.endswith("/"):
            _check_marker(request, length)
        if claim.body_hash in bodies.CHUNKED:
            return self._framed(request, headers, claim, int(length), receive)
        if length == "0":
            if claim.body_hash not in (bodies.UNSIGNED, bodies.EMPTY):
                raise BadBody("XAmzContentSHA256Mismatch", bodies.MISMATCH)
            return (None if request.takes_no_body else b""), {}
        if request.operation == "DeleteObjects":
            return await self._deletion(receive, claim.body_hash), {}
        return Upload(bodies.checked(receive, claim.body_hash)), {"content-length": length}

    def _framed(
        self, request: Request, headers: dict[str, str], claim: Claim, length: int, receive
    ) -> tuple[Upload, dict[str, str]]:
        """A body in aws-chunked framing: it goes on without, or with unsigned chunks when sums of it
        come behind it."""
        chunks = Chunks(claim.body_hash, self._gate, claim.scope, claim.time, length)
        payload = bodies.unframed(receive, chunks)
        _without_framing(request.headers)
        if claim.body_hash == bodies.SIGNED:
            return Upload(payload), {"content-length": str(length)}
        return Upload(bodies.framed(payload, chunks)), {
            "x-amz-content-sha256": bodies.UNSIGNED_TRAILER,
            "x-amz-decoded-content-length": str(length),
            "x-amz-trailer": headers.get("x-amz-trailer", ""),
        }

    async def _deletion(self, receive, body_hash: str) -> bytes:
        """The document of a bulk deletion, its keys checked: one that the store would take for
        another key would delete that one."""
        document = bytearray()
        async for piece in bodies.checked(receive, body_hash):
            document += piece
            if len(document) > XML_BYTES:
                raise S3Error("MalformedXML", MALFORMED)
        try:
            root = ElementTree.fromstring(bytes(document), forbid_dtd=True)
        except (ElementTree.ParseError, DefusedXmlException):
            raise S3Error("MalformedXML", MALFORMED) from None
        rules.keys_in(e.text or "" for e in root.iter() if e.tag.rpartition("}")[2] == "Key")
        return bytes(document)

    async def _take_form(self, path: str, headers: dict[str, str], receive, send) -> None:
        bucket = path.strip("/")
        if "/" in bucket:
            raise S3Error("MethodNotAllowed", "A form is posted to a bucket.", 405)
        with tempfile.TemporaryFile(dir=self._data) as file:
            form = await forms.read(receive, headers, bucket, self._gate, file)
            rules.check_key(form.key, "PUT")
            if form.key.endswith("/"):
                raise S3Error("InvalidArgument", "This store keeps no content under such a key.")
            await self._is_up()
            file.seek(0)
            sent = {"content-type": "binary/octet-stream"} | form.headers
            sent["content-length"] = str(form.size)
            where = (bucket, form.key, {}, sent, file)
            async with self._in_turn(f"{bucket}/{form.key}", "PUT", *where) as reply:
                if reply.status != 200:
                    await self._hand_back(reply, send)
                    return
                etag = reply.headers.get("ETag", "")
        await web.send_answer(send, _posted(form, bucket, etag))

    # -- to the store and back ---------------------------------------------------------

    async def _is_up(self) -> None:
        try:
            await asyncio.wait_for(self._up.wait(), WAIT_SECONDS)
        except TimeoutError:
            raise Unavailable("the store is down") from None

    async def _pass_on(
        self, method: str, request: Request, body, more: dict[str, str], send
    ) -> None:
        headers = dict(request.headers)
        if request.operation in ("PutObject", "CreateMultipartUpload"):
            headers.setdefault("content-type", "binary/octet-stream")
        if request.operation in ("GetObject", "HeadObject") and request.key.endswith("/"):
            await self._require_marker(request)
        headers |= more
        where = (request.bucket, request.key, request.query)
        async with self._in_turn(request.writes, method, *where, headers, body) as reply:
            if method not in ("GET", "HEAD") and reply.status >= 500:
                self._check_disk()
            extra = {}
            version = re.search(r"\?versionId=([^&]+)", headers.get("x-amz-copy-source", ""))
            if version and reply.status == 200:
                extra["x-amz-copy-source-version-id"] = version[1]
            if request.operation in ("CopyObject", "UploadPartCopy") and reply.status == 200:
                await self._hand_back_copied(reply, send, extra)
            else:
                await self._hand_back(reply, send, extra)

    async def _require_marker(self, request: Request) -> None:
        """S3Error unless there is an object of this name: the store answers for any folder."""
        if not await listing.has(self._lister(request), request.key):
            raise S3Error("NoSuchKey", "The specified key does not exist.", 404)

    def _lister(self, request: Request) -> listing.Fetch:
        async def fetch(query: dict[str, str]) -> bytes:
            async with self._ask("GET", request.bucket, "", query, {}, None) as reply:
                content = await reply.read()
                if reply.status != 200:
                    raise _store_error(reply.status, content)
                return content

        return fetch

    def _check_disk(self) -> None:
        if self._weed.was_full or shutil.disk_usage(self._data).free < FULL_BYTES:
            message = "The disk is full. Free some space, and send the request again."
            raise S3Error("ServiceUnavailable", message, 503)

    @asynccontextmanager
    async def _in_turn(
        self, written: str | None, method: str, bucket: str, key: str,
        query: dict[str, str], headers: dict[str, str], body,
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        """`_ask`, when it is the turn of what is written: of an upload, that is before its last
        piece, with which it is committed, however long the others took."""
        async with AsyncExitStack() as stack:
            if written is not None:
                take = partial(stack.enter_async_context, self._turns.of(written))
                if isinstance(body, Upload):
                    body.before_last = take
                else:
                    await take()
            ask = self._ask(method, bucket, key, query, headers, body)
            yield await stack.enter_async_context(ask)

    @asynccontextmanager
    async def _ask(
        self,
        method: str,
        bucket: str,
        key: str,
        query: dict[str, str],
        headers: dict[str, str],
        body,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request to the store. A body that was found to be wrong raises what it was."""
        path = f"/{encoded(bucket)}" + (f"/{encoded(key, '/')}" if key else "")
        text = _query(query.items())
        signed = self._weed.signed(method, path, text, headers)
        url = URL(self._weed.url + path + (f"?{text}" if text else ""), encoded=True)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
                auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=1 << 18,
            )  # fmt: skip
        try:
            async with self._session.request(
                method, url, headers=signed, data=body, allow_redirects=False
            ) as reply:
                yield reply
        except aiohttp.ClientError:
            if isinstance(body, Upload) and body.error is not None:
                raise body.error from None
            raise

    async def _hand_back(
        self, reply: aiohttp.ClientResponse, send, extra: dict | None = None
    ) -> None:
        head = [
            (name.lower().encode("latin-1"), web.encoded(value))
            for name, value in reply.headers.items()
            if name.lower() not in NOT_ANSWERED
        ]
        head += [(name.encode(), web.encoded(value)) for name, value in (extra or {}).items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": head})
        async for part in reply.content.iter_any():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _hand_back_copied(
        self, reply: aiohttp.ClientResponse, send, extra: dict[str, str]
    ) -> None:
        """What came of a copy: the store leaves out the ETag's quotes, which S3 has."""
        content = UNQUOTED.sub(rb"<ETag>&quot;\1&quot;</ETag>", await reply.read())
        kept = {name: value for name, value in reply.headers.items() if name.lower() not in COPIED}
        answer = web.Answer(200, "application/xml", content, kept | extra)
        await web.send_answer(send, answer)


UNSUPPORTED = (
    f"The authorization mechanism you have provided is not supported. Please use {ALGORITHM}."
)
MALFORMED = (
    "The XML you provided was not well-formed or did not validate against our published schema"
)


def refusal(status: int, code: str, message: str, resource: str) -> web.Answer:
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{escape(clean(message))}</Message>"
        f"<Resource>{escape(clean(resource))}</Resource><RequestId>0</RequestId></Error>"
    )
    return web.Answer(status, "application/xml", text.encode())


def _store_error(status: int, content: bytes) -> S3Error:
    code = re.search(rb"<Code>([^<]+)</Code>", content)
    message = re.search(rb"<Message>([^<]+)</Message>", content)
    return S3Error(
        code[1].decode() if code else "InternalError",
        message[1].decode() if message else "The store refused.",
        status,
    )


def _check_hash(body_hash: str) -> None:
    known = body_hash == bodies.UNSIGNED or body_hash in bodies.CHUNKED
    if not known and not HASH.fullmatch(body_hash):
        message = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-… or a SHA-256"
        raise S3Error("InvalidArgument", message)


def _check_marker(request: Request, length: str) -> None:
    """What stands under a key that ends in a slash is a folder to the store, and only that."""
    named = [name for name in request.headers if name.startswith(("x-amz-meta-", "x-amz-tagging"))]
    if length != "0" or named:
        raise S3Error(
            "InvalidArgument",
            "This store keeps no content, metadata or tags under a key that ends in a slash: "
            f"{request.key[:100]!r}.",
        )


def _credential(text: str) -> tuple[str, str, str, str]:
    parts = text.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request":
        raise S3Error("AuthorizationQueryParametersError", "X-Amz-Credential is malformed")
    return parts[0], parts[1], parts[2], parts[3]


def _check_expiry(made: str, seconds: str) -> None:
    if not seconds.isdecimal() or not 1 <= int(seconds) <= LONGEST_SECONDS:
        message = f"X-Amz-Expires must be between 1 and {LONGEST_SECONDS} seconds"
        raise S3Error("AuthorizationQueryParametersError", message)
    began = moment(made)
    if (
        not began - timedelta(minutes=15)
        <= datetime.now(UTC)
        <= began + timedelta(seconds=int(seconds))
    ):
        raise S3Error("AccessDenied", "Request has expired", 403)


def _query(pairs) -> str:
    """A query as S3 signs it."""
    return "&".join(f"{encoded(name)}={encoded(value)}" for name, value in sorted(pairs))


def _without_framing(headers: dict[str, str]) -> None:
    """Take `aws-chunked` out of the encodings: it is of the transfer, and not of the object."""
    kept = [e.strip() for e in headers.get("content-encoding", "").split(",")]
    kept = [encoding for encoding in kept if encoding and encoding != "aws-chunked"]
    if kept:
        headers["content-encoding"] = ",".join(kept)
    else:
        headers.pop("content-encoding", None)


def _posted(form: forms.Form, bucket: str, etag: str) -> web.Answer:
    """What a form's sender asked to be answered."""
    place = {"ETag": etag, "Location": f"/{bucket}/{encoded(form.key, '/')}"}
    redirect = form.fields.get("success_action_redirect") or form.fields.get("redirect")
    if redirect:
        query = urlencode({"bucket": bucket, "key": form.key, "etag": etag})
        where = f"{redirect}{'&' if '?' in redirect else '?'}{query}"
        return web.Answer(303, "text/plain", b"", {"Location": where})
    status = form.fields.get("success_action_status")
    if status == "201":
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n<PostResponse>'
            f"<Location>{escape(place['Location'])}</Location><Bucket>{bucket}</Bucket>"
            f"<Key>{escape(form.key)}</Key><ETag>{escape(etag)}</ETag></PostResponse>"
        )
        return web.Answer(201, "application/xml", text.encode(), place)
    return web.Answer(200 if status == "200" else 204, "text/plain", b"", place)
