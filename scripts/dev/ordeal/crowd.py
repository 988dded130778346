"""Clients that never stop, and the ledger of what they were promised.

Two ask each of the pipelines that live as long as the ordeal, two keep objects in the store. What was
acknowledged is remembered until it has been found again: an object's bytes, a captured prediction.
"""

import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from ordeal.arena import Arena, Client, Gone
from scoring.packing import pack

PAUSE_SECONDS = 0.03  # between a client's requests: both cores are not ours
LONGEST_PAUSE = 10  # of an endpoint that nobody has hurt
REST_SECONDS = 10  # until an upload is acknowledged
OBJECTS = 120  # kept at a time
FOLDER = "torture/"
UNITS = 7919
REFUSED = "refuse"
MODEL = """
import time
from werkzeug.wrappers import Response
time.sleep({seconds})
def model_fn(model_dir):
    return {version}
def transform_fn(model, body, content_type, accept):
    text = body if isinstance(body, str) else body.decode()
    if text == "refuse":
        return Response("no such thing", status=415)
    return (f"{{model}},{{int(text) * 7919 + model}}", "text/csv")
"""


def model(version: int, seconds: float = 0) -> bytes:
    """A package whose answers can be checked to the last digit, and say which version gave them;
    it takes its time to be imported."""
    code = MODEL.format(version=version, seconds=seconds)
    return pack({"code/inference.py": code.encode()})


def version_of(row: str, answer: str) -> int | None:
    """The version that gives this answer to this row, None for a wrong answer."""
    version, _, value = answer.partition(",")
    right = version.isdigit() and value == str(int(row) * UNITS + int(version))
    return int(version) if right else None


class Ledger:
    """What was promised, what went wrong, and what may go wrong just now."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()  # how often, by what is alike
        self.first: dict[str, str] = {}  # the first of each
        self.round = "before the first round"
        self.hurt: frozenset[str] = frozenset()  # of predict, api, s3: what need not be answered
        self.capture_hurt = False  # a full disk stops the capture, not the endpoint
        self.pauses = {"at rest": 0.0, "hurt": 0.0}  # the longest of an endpoint, s
        self._lock = threading.Lock()

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def fault(self, what: str) -> None:
        alike = f"{self.round}: {re.sub('[0-9]+', '#', what)}"
        with self._lock:
            self.faults[alike] += 1
            self.first.setdefault(alike, f"{self.round}: {what}")

    @property
    def wrong(self) -> list[str]:
        """What went wrong, the like of it once."""
        with self._lock:
            return [f"{self.first[alike]} (× {n})" for alike, n in self.faults.items()]

    def expect(self, *ways: str) -> None:
        """From now on, until the round's end, requests of these kinds may find nobody."""
        self.hurt |= set(ways)

    def calm(self) -> None:
        self.hurt, self.capture_hurt = frozenset(), False

    def unanswered(self, way: str, what: str, hurt_before: frozenset[str]) -> None:
        """A request met a process that was killed, and will be sent again; or that is a fault."""
        if way in self.hurt | hurt_before:
            self.count(f"{way}: retried")
        else:
            self.fault(f"{way}, with nobody killed that it needs: {what}")


class Pipeline:
    """A pipeline that lives as long as the ordeal."""

    def __init__(self, name: str, archive: bytes, fixed_row: str | None = None) -> None:
        """With a `fixed_row` it is always asked the same, and must always answer the same."""
        self.name, self.archive, self.fixed_row = name, archive, fixed_row
        self.version = 1
        self.allowed = {1}  # versions that may answer at this moment
        self.promised: dict[str, tuple[float, str, bool]] = {}  # moment, answer, capture was hurt
        self.captured: set[str] = set()
        self.files: dict[str, str] = {}  # of captured records, by key: their ETags
        self.answered = 0.0  # when it last was
        self.fixed_answer: str | None = None
        self.lock = threading.Lock()

    def row(self, number: str) -> str:
        return self.fixed_row or number

    def version_of(self, row: str, answer: str) -> int | None:
        if self.fixed_row is None:
            return version_of(row, answer)
        self.fixed_answer = self.fixed_answer or answer
        return 1 if answer == self.fixed_answer else None


class Crowd:
    def __init__(self, arena: Arena, ledger: Ledger, pipelines: list[Pipeline], seed: int) -> None:
        self._arena, self._ledger, self._pipelines = arena, ledger, pipelines
        self._stop = threading.Event()
        self.keepers = [Keeper(arena, ledger, number, seed) for number in range(2)]
        ways = [
            (self._predict, pipeline, f"{first}{number}")
            for first, pipeline in enumerate(pipelines, 1)
            for number in range(2)
        ]
        ways += [(self._keep_objects, keeper, "") for keeper in self.keepers]
        self._threads = [
            threading.Thread(target=self._guarded, args=way, daemon=True) for way in ways
        ]

    def __enter__(self) -> "Crowd":
        for pipeline in self._pipelines:
            pipeline.answered = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @contextmanager
    def all_at_rest(self) -> Iterator[dict[str, str]]:
        """Nothing is written meanwhile: SHA-256 of every acknowledged object, by key."""
        with ExitStack() as stack:
            for keeper in self.keepers:
                if not keeper.lock.acquire(timeout=REST_SECONDS):
                    raise TimeoutError("an object is not acknowledged")
                stack.callback(keeper.lock.release)
            yield {key: value for k in self.keepers for key, value in k.objects.items()}

    def _guarded(self, way, *arguments) -> None:
        try:
            way(*arguments)
        except Exception as error:  # a client that is no more proves nothing
            self._ledger.fault(f"a client of ours ended: {type(error).__name__}: {error}")

    def _predict(self, pipeline: Pipeline, first: str) -> None:
        client, count = Client(self._arena), 0
        while not self._stop.wait(PAUSE_SECONDS):
            count += 1
            if count % 20 == 0 and pipeline.fixed_row is None:
                self._predict_badly(client, pipeline)
            else:
                self._predict_once(client, pipeline, f"{first}{count:08d}")

    def _predict_once(self, client: Client, pipeline: Pipeline, number: str) -> None:
        ledger, row = self._ledger, pipeline.row(number)
        allowed, hurt, uncaptured = set(pipeline.allowed), ledger.hurt, ledger.capture_hurt
        try:
            status, body = client.predict(pipeline.name, row.encode(), number)
        except Gone as gone:
            ledger.unanswered("predict", str(gone), hurt)
            return
        answer = body.decode(errors="replace")
        if status == 503:
            ledger.unanswered("predict", answer, hurt)
        elif status != 200:
            ledger.fault(f"{pipeline.name}, {row}: {status} {answer}")
        elif pipeline.version_of(row, answer) not in allowed | pipeline.allowed:
            versions = sorted(allowed | pipeline.allowed)
            ledger.fault(f"{pipeline.name}, {row}: {answer!r}, in service are {versions}")
        else:
            ledger.count("predictions answered")
            with pipeline.lock:
                now = time.monotonic()
                uncaptured |= ledger.capture_hurt
                pipeline.promised[number] = (now, answer, uncaptured)
                pause, pipeline.answered = now - pipeline.answered, now
            self._note_pause(pipeline, pause, "predict" in hurt | ledger.hurt)

    def _predict_badly(self, client: Client, pipeline: Pipeline) -> None:
        hurt = self._ledger.hurt
        try:
            status, body = client.predict(pipeline.name, REFUSED.encode())
        except Gone as gone:
            self._ledger.unanswered("predict", str(gone), hurt)
            return
        if status == 424:
            self._ledger.count("refused as expected")
        elif status == 503:
            self._ledger.unanswered("predict", body.decode(errors="replace"), hurt)
        else:
            self._ledger.fault(f"{pipeline.name}, {REFUSED}: {status} {body[:200]!r}, not 424")

    def _note_pause(self, pipeline: Pipeline, pause: float, hurt: bool) -> None:
        kind = "hurt" if hurt else "at rest"
        self._ledger.pauses[kind] = max(pause, self._ledger.pauses[kind])
        if not hurt and pause > LONGEST_PAUSE:
            self._ledger.fault(f"{pipeline.name} was not answered for {pause:.1f} s")

    def _keep_objects(self, keeper: "Keeper", _: str) -> None:
        while not self._stop.wait(3 * PAUSE_SECONDS):
            keeper.act(self._stop)


class Keeper:
    """Keeps objects: writes new ones, deletes old ones, each until it is acknowledged."""

    def __init__(self, arena: Arena, ledger: Ledger, number: int, seed: int) -> None:
        self._arena, self._ledger = arena, ledger
        self._s3 = arena.s3(patient=False)
        self._random = random.Random(f"{seed}/keeper {number}")
        self._number, self._count = number, 0
        self.objects: dict[str, str] = {}  # SHA-256 of what was acknowledged, by key
        self.lock = threading.Lock()  # held until nothing is in doubt

    def act(self, stop: threading.Event) -> None:
        with self.lock:
            if len(self.objects) > OBJECTS // 2:
                key = next(iter(self.objects))
                self._insist(stop, lambda: self._delete(key))
                return
            self._count += 1
            key = f"{FOLDER}{self._number}/{self._count % 7}/{self._count}"
            content = self._random.randbytes(int(2 ** self._random.uniform(0, 17)))
            put = self._put_in_parts if self._count % 10 == 0 else self._put
            self._insist(stop, lambda: put(key, content))

    def _insist(self, stop: threading.Event, deed) -> None:
        while not stop.is_set():
            hurt = self._ledger.hurt
            try:
                deed()
                return
            except (BotoCoreError, HTTPClientError) as error:
                self._ledger.unanswered("s3", str(error), hurt)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 503:
                    self._ledger.fault(f"s3: {error}")
                    return
                self._ledger.unanswered("s3", str(error), hurt)
            time.sleep(0.2)

    def _put(self, key: str, content: bytes) -> None:
        self._s3.put_object(Bucket=self._arena.bucket, Key=key, Body=content)
        self._acknowledged(key, content)

    def _put_in_parts(self, key: str, content: bytes) -> None:
        """An upload of one part, when those are aborted that did not get to their end: of one whose
        beginning was not answered nobody told us the id."""
        where = {"Bucket": self._arena.bucket, "Key": key}
        begun = self._s3.list_multipart_uploads(Bucket=self._arena.bucket, Prefix=key)
        for item in begun.get("Uploads", []):
            self._s3.abort_multipart_upload(UploadId=item["UploadId"], **where)
        upload = where | {"UploadId": self._s3.create_multipart_upload(**where)["UploadId"]}
        etag = self._s3.upload_part(PartNumber=1, Body=content, **upload)["ETag"]
        parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        self._s3.complete_multipart_upload(MultipartUpload=parts, **upload)
        self._acknowledged(key, content)

    def _acknowledged(self, key: str, content: bytes) -> None:
        self.objects[key] = hashlib.sha256(content).hexdigest()
        self._ledger.count("objects written")

    def _delete(self, key: str) -> None:
        self._s3.delete_object(Bucket=self._arena.bucket, Key=key)
        del self.objects[key]
        self._ledger.count("objects deleted")


def records(text: bytes) -> Iterator[tuple[str, str]]:
    """Inference id and answer of each captured record in a file."""
    for line in text.splitlines():
        record = json.loads(line)
        output = record["captureData"]["endpointOutput"]["data"]
        yield record["eventMetadata"].get("inferenceId", ""), output
