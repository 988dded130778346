"""A transform job's own process: objects of S3 through a model, each to an object of its own.

    s3://in/night/a.csv  →  mini-batches  →  POST /invocations  →  s3://out/night/a.csv.out

The model is served by other processes, as for an endpoint. An object's answers are gathered in a file
and uploaded when they are complete: nothing partial ever stands under an output's name. An object
with a bad record gets no output, the others keep theirs, and the job fails.

Source: SageMaker developer guide, "Use batch transform" and "Use your own inference code with batch
transform".
"""

import asyncio
import contextlib
import gzip
import json
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.environment import client
from orchestrator.sandbox.children import socket_of
from orchestrator.sandbox.hop import Broken, Hop, Reply
from orchestrator.sandbox.hosting.publisher import split_url
from orchestrator.sandbox.jobs import work
from orchestrator.sandbox.jobs.limits import MEGABYTE, Limits
from orchestrator.sandbox.jobs.records import ALL, BadRecord, Batch, Processing, batches
from orchestrator.sandbox.jobs.work import AGAIN, COMPLETED, JobFailed, Outcome
from orchestrator.sandbox.places import Places

log = logging.getLogger("job")

USUAL_SECONDS, USUAL_RETRIES = 600, 3
TOLD_SECONDS = 1.0  # between two words on how far it is
ROW = re.compile(r"\brow (\d+)\b")
SAID_LENGTH = 300  # of what a model answers


class ModelGone(Exception):
    """The model's process has ended."""


@dataclass(frozen=True)
class Source:
    """An object, and the key of its output below the output's prefix."""

    key: str
    size: int
    output: str


def main(job: dict) -> int:
    """Besides what `work.run` says: `request`, as CreateTransformJob has it, its `limits`, and `models`,
    the processes that serve."""
    return work.run(job, lambda job, tell: asyncio.run(transform(job, tell)))


async def transform(job: dict, tell: Callable[..., None]) -> Outcome:
    request, limits = job["request"], Limits(**job["limits"])
    models = Models([socket_of(name) for name in job["models"]], limits.concurrent)
    try:
        bucket, prefix = split_url(request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"])
        sources = list(_sources(bucket, prefix))
        if not sources:
            raise JobFailed(f"ClientError: no objects were found under s3://{bucket}/{prefix}.")
        log.info(
            "%d objects, MaxConcurrentTransforms=%d, MaxPayloadInMB=%d, BatchStrategy=%s",
            len(sources), limits.concurrent, limits.bytes // MEGABYTE, limits.strategy,
        )  # fmt: skip
        return await _all(job, models, limits, bucket, sources, tell)
    except ModelGone as error:
        return Outcome(AGAIN, f"AlgorithmError: {error}")


async def _all(
    job: dict, models: "Models", limits: Limits, bucket: str, sources: list[Source],
    tell: Callable[..., None],
) -> Outcome:  # fmt: skip
    failures = []
    progress = Progress(tell, sum(source.size for source in sources), len(sources))
    for source in sources:
        try:
            await _object(job, models, limits, bucket, source, progress)
        except BadRecord as error:
            line = f", line {error.line}" if error.line else ""
            failures.append(f"{bucket}/{source.key}{line}: {error}")
            log.error("%s: %s", "ClientError: 400", failures[-1])
        progress.done(source)
    if failures:
        more = f" ({len(failures) - 1} more objects failed)" if failures[1:] else ""
        raise JobFailed(f"ClientError: {failures[0]}{more}. See job logs for more information.")
    return Outcome(COMPLETED)


class Models:
    """The processes that serve a model, each asked by as many at once as is its share."""

    def __init__(self, sockets: list[str], concurrent: int) -> None:
        hops = [Hop(socket) for socket in sockets]
        self._free: asyncio.Queue[Hop] = asyncio.Queue()
        for number in range(concurrent):
            self._free.put_nowait(hops[number % len(hops)])

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[Hop]:
        hop = await self._free.get()
        try:
            yield hop
        finally:
            self._free.put_nowait(hop)


class Progress:
    """How far a job is, for its log and whoever asks."""

    def __init__(self, tell: Callable[..., None], size: int, objects: int) -> None:
        self._tell, self._size, self._objects = tell, size, objects
        self._bytes = self._done = 0
        self._told = time.monotonic()

    def more(self, count: int) -> None:
        self._bytes += count
        if time.monotonic() - self._told > TOLD_SECONDS:
            self._say()

    def done(self, source: Source) -> None:
        self._done += 1
        log.info("%s: %d of %d objects", source.key, self._done, self._objects)
        self._say()

    def _say(self) -> None:
        self._told = time.monotonic()
        self._tell(progress={
            "objects": [self._done, self._objects], "bytes": [self._bytes, self._size]
        })  # fmt: skip


def _sources(bucket: str, prefix: str) -> Iterator[Source]:
    """The objects whose keys begin with a prefix; an output's key is what comes after it."""
    pages = client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for page in pages:
        for found in page.get("Contents", []):
            key = found["Key"]
            if key.endswith("/"):  # a folder, as consoles make them
                continue
            folder = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
            if not key.startswith(folder):  # an object itself, or the beginning of some
                folder = prefix[: prefix.rfind("/") + 1]
            yield Source(key, found["Size"], f"{key.removeprefix(folder)}.out")


async def _object(
    job: dict, models: "Models", limits: Limits, bucket: str, source: Source, progress: Progress
) -> None:
    """One object through the model, and its output to S3."""
    request, folder = job["request"], Places(Path()).process(job["process"])
    taken, made = folder / "taken", folder / "made"
    await asyncio.to_thread(client("s3").download_file, bucket, source.key, str(taken))
    compressed = request["TransformInput"].get("CompressionType", "None") == "Gzip"
    try:
        with gzip.open(taken) if compressed else open(taken, "rb") as file, open(made, "wb") as out:
            await _ask_all(request, models, limits, file, out, progress)
    except (gzip.BadGzipFile, EOFError) as error:
        raise BadRecord(f"it is no whole gzip file: {error}") from None
    finally:
        taken.unlink(missing_ok=True)
    into, prefix = split_url(request["TransformOutput"]["S3OutputPath"].rstrip("/"))
    key = f"{prefix}/{source.output}" if prefix else source.output
    extra = {"ContentType": request["TransformOutput"].get("Accept", "application/octet-stream")}
    await asyncio.to_thread(client("s3").upload_file, str(made), into, key, ExtraArgs=extra)
    made.unlink()


async def _ask_all(
    request: dict, models: "Models", limits: Limits, file, out, progress: Progress
) -> None:
    """Ask for every mini-batch, a few at once, and write the answers in the order of the input."""
    source, told = request["TransformInput"], request.get("DataProcessing", {})
    processing = Processing(
        source.get("ContentType", ""),
        told.get("InputFilter", ALL), told.get("OutputFilter", ALL),
        told.get("JoinSource", "None") == "Input",
    )  # fmt: skip
    by_line = source.get("SplitType", "None") == "Line"
    assembled = request["TransformOutput"].get("AssembleWith", "None") == "Line"

    async def ask(batch: Batch) -> bytes:
        body = processing.sent(batch)
        async with models.one() as hop:
            return await _ask(request, hop, batch, body)

    pending: deque[tuple[Batch, asyncio.Task]] = deque()

    async def take() -> None:
        batch, task = pending.popleft()
        answer = await task
        out.write(
            answer if not assembled and processing.is_plain else processing.kept(batch, answer)
        )
        progress.more(len(batch.body))

    try:
        for batch in batches(file, by_line, limits.strategy == "MultiRecord", limits.bytes):
            pending.append((batch, asyncio.create_task(ask(batch))))
            await asyncio.sleep(0)
            if len(pending) > limits.concurrent:  # one is made ready while the others are asked
                await take()
        while pending:
            await take()
    finally:
        for _, task in pending:
            task.cancel()


async def _ask(request: dict, hop: Hop, batch: Batch, body: bytes) -> bytes:
    """The model's answer to a mini-batch; BadRecord with the model's own words when it refuses."""
    config = request.get("ModelClientConfig", {})
    seconds = config.get("InvocationsTimeoutInSeconds", USUAL_SECONDS)
    headers = {
        "content-type": request["TransformInput"].get("ContentType", ""),
        "accept": request["TransformOutput"].get("Accept", ""),
    }
    for tries_left in reversed(range(config.get("InvocationsMaxRetries", USUAL_RETRIES) + 1)):
        reply = await _reply(hop, headers, body, seconds)
        if 200 <= reply.status < 300:
            return reply.body
        if reply.status < 500:
            break
        log.warning(
            "line %d: the model answered %d, %d tries left", batch.first, reply.status, tries_left
        )
    said = reply.body[: SAID_LENGTH * 4].decode(errors="replace")
    row, by_line = ROW.search(said), request["TransformInput"].get("SplitType") == "Line"
    line = batch.first if by_line else None
    if row:
        line = batch.first + int(row[1]) - 1
    raise BadRecord(f"the model answered {reply.status}: {_plain(said)}", line)


def _plain(said: str) -> str:
    """The words of an answer, without its wrapping, and without the row, which counts otherwise."""
    try:
        value = json.loads(said)
        said = value["error"] if isinstance(value, dict) and "error" in value else said
    except ValueError:
        pass
    return " ".join(re.sub(r"^row \d+[:,]? ?", "", str(said)).split())[:SAID_LENGTH].rstrip(".")


async def _reply(hop: Hop, headers: dict, body: bytes, seconds: float) -> Reply:
    kept = [(name, value.encode()) for name, value in headers.items() if value]
    try:
        return await asyncio.wait_for(hop.ask("POST", "/invocations", kept, body), seconds)
    except TimeoutError:
        raise JobFailed(f"AlgorithmError: the model did not answer within {seconds} s.") from None
    except (Broken, OSError):
        raise ModelGone("The model's process ended.") from None
