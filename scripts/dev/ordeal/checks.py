"""What must be true again when a round is over, soon: each check lists what is not.

Everything is asked over HTTP, or looked at from outside: processes, and the names of files.
"""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable

from botocore.exceptions import ClientError

from ordeal.arena import Arena
from ordeal.crowd import FOLDER, Crowd, Ledger, Pipeline, records
from ordeal.deeds import Deeds

SETTLE_SECONDS = 60
ANSWERED_SECONDS = 3


class Checks:
    def __init__(
        self, arena: Arena, ledger: Ledger, deeds: Deeds, crowd: Crowd, pipelines: list[Pipeline]
    ) -> None:
        self._arena, self._ledger, self._deeds = arena, ledger, deeds
        self._crowd, self._pipelines = crowd, pipelines
        self._since = 0.0

    def settle(self) -> None:
        """Wait until every check has found nothing; what still does after a minute is a fault."""
        self._settle(
            self.processes, self.stacks, self.resources, self.answers, self.captured,
            self.objects, self.files,
        )  # fmt: skip
        self._ledger.calm()
        for pipeline in self._pipelines:
            self._forget_uncaptured(pipeline)

    def the_rest(self) -> None:
        """The crowd has gone home: what it was answered last is captured, too."""
        self._settle(self.captured)

    def _settle(self, *checks: Callable[[], list[str]]) -> None:
        self._since, deadline = time.monotonic(), time.monotonic() + SETTLE_SECONDS
        left = dict.fromkeys(checks, ["it was not looked at"])
        while left and time.monotonic() < deadline:
            for check in list(left):
                try:
                    left[check] = check()
                except Exception as error:  # whoever was to be asked is not there yet
                    left[check] = [f"{check.__name__}: {type(error).__name__}: {error}"]
                if not left[check]:
                    del left[check]
            time.sleep(0.2)
        for found in left.values():
            for what in found:
                self._ledger.fault(what)

    # -- what runs ---------------------------------------------------------------------

    def processes(self) -> list[str]:
        wanted = {
            "server": 1, "nursery": 1, "front": max(1, (os.cpu_count() or 1) // 2), "store": 1,
            "weed": 1, "endpoint": len(self._pipelines), "other": 0,
        }  # fmt: skip
        found = {kind: len(pids) for kind, pids in self._arena.processes().items()}
        found["nursery"] = found["nursery"] or 1  # it comes back when something is to be started
        return [] if found == wanted else [f"processes: {found}, not {wanted}"]

    def stacks(self) -> list[str]:
        client = self._arena.target.client("cloudformation")
        pages = client.get_paginator("describe_stacks").paginate()
        found = {s["StackName"]: s["StackStatus"] for page in pages for s in page["Stacks"]}
        wanted = {self._deeds.stack(pipeline.name) for pipeline in self._pipelines}
        wrong = [f"stacks: {name} is there" for name in found.keys() - wanted]
        wrong += [f"stacks: {name} is gone" for name in wanted - found.keys()]
        good = ("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")
        wrong += [
            f"stacks: {name} is {state}" for name, state in found.items() if state not in good
        ]
        return wrong

    def resources(self) -> list[str]:
        sagemaker = self._arena.target.client("sagemaker")
        endpoints = sagemaker.list_endpoints()["Endpoints"]
        found = {item["EndpointName"]: item["EndpointStatus"] for item in endpoints}
        wanted = {pipeline.name: "InService" for pipeline in self._pipelines}
        wrong = [] if found == wanted else [f"endpoints: {found}, not {wanted}"]
        for kind, key in (("models", "Models"), ("endpoint_configs", "EndpointConfigs")):
            count = len(getattr(sagemaker, f"list_{kind}")()[key])
            if count != len(self._pipelines):
                wrong.append(f"{kind}: {count}, not {len(self._pipelines)}")
        return wrong

    def answers(self) -> list[str]:
        """Each pipeline answers, and the crowd has seen to it that only with its version."""
        silent = [
            pipeline.name for pipeline in self._pipelines
            if pipeline.answered < max(self._since, time.monotonic() - ANSWERED_SECONDS)
        ]  # fmt: skip
        return [f"answers: {name} is silent" for name in silent]

    # -- what was promised -------------------------------------------------------------

    def objects(self) -> list[str]:
        """Every acknowledged object is there with its bytes, nothing else, no upload half-done."""
        s3, bucket, wrong = self._arena.s3(patient=True), self._arena.bucket, []
        with self._crowd.all_at_rest() as objects:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=FOLDER)
            keys = {item["Key"] for page in pages for item in page.get("Contents", [])}
            wrong += [f"objects: {key} is lost" for key in objects.keys() - keys]
            wrong += [f"objects: {key} was never acknowledged" for key in keys - objects.keys()]
            for key in objects.keys() & keys:
                content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
                if hashlib.sha256(content).hexdigest() != objects[key]:
                    wrong.append(f"objects: {key} has other bytes")
            for item in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []):
                if item["Key"] in objects and "s3" in self._ledger.hurt:
                    # It was completed when the disk was full, or the store died before it had tidied up.
                    upload = {"Key": item["Key"], "UploadId": item["UploadId"]}
                    s3.abort_multipart_upload(Bucket=bucket, **upload)
                    self._ledger.count("completed uploads that were still listed")
                    continue
                wrong.append(f"objects: the upload of {item['Key']} is left")
        return wrong

    def captured(self) -> list[str]:
        """Every prediction that was answered before the round's end is captured, once, as it was."""
        wrong = []
        for pipeline in self._pipelines:
            self._read_captured(pipeline)
            with pipeline.lock:
                late = [
                    number for number, (moment, _, uncaptured) in pipeline.promised.items()
                    if moment < self._since and not uncaptured
                ]  # fmt: skip
            if late:
                wrong.append(
                    f"captured: {len(late)} predictions of {pipeline.name} are not, as {late[0]}"
                )
        return wrong

    def _read_captured(self, pipeline: Pipeline) -> None:
        s3, bucket = self._arena.s3(patient=True), self._arena.bucket
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{pipeline.name}/datacapture/"
        )
        for item in [item for page in pages for item in page.get("Contents", [])]:
            if pipeline.files.get(item["Key"]) == item["ETag"]:
                continue
            if item["Key"] in pipeline.files:
                self._ledger.fault(f"captured: {item['Key']} has changed")
            try:
                content = s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            except ClientError as error:
                raise LookupError(f"{item['Key']}: {error}") from None
            pipeline.files[item["Key"]] = item["ETag"]
            for number, answer in records(content):
                self._note_record(pipeline, number, answer)

    def _note_record(self, pipeline: Pipeline, number: str, answer: str) -> None:
        if not number:
            return
        self._ledger.count("records captured")
        if number in pipeline.captured:
            self._ledger.fault(f"captured: {number} of {pipeline.name} is there twice")
        pipeline.captured.add(number)
        with pipeline.lock:
            _, promised, _ = pipeline.promised.pop(number, (0, answer, False))
        if answer != promised:
            self._ledger.fault(f"captured: {number} as {answer!r}, answered was {promised!r}")

    def _forget_uncaptured(self, pipeline: Pipeline) -> None:
        """What was answered on a full disk need not be captured; what is late was told."""
        with pipeline.lock:
            for number, (moment, _, uncaptured) in list(pipeline.promised.items()):
                if moment < self._since:
                    del pipeline.promised[number]
                    self._ledger.count("not captured, the disk being full", uncaptured)

    # -- what is left over -------------------------------------------------------------

    def files(self) -> list[str]:
        folder, wrong = self._arena.folder, []
        names = Counter(path.name.partition("-")[0] for path in (folder / "run").iterdir())
        wanted = Counter({"endpoint": len(self._pipelines), "store": 1, "routes": 1})
        wanted.update({"front": max(1, (os.cpu_count() or 1) // 2), "control.sock": 1})
        if names != wanted:
            wrong.append(f"files: in run/ are {dict(names)}, not {dict(wanted)}")
        routes = {path.name for path in (folder / "run" / "routes").iterdir()}
        ours = {pipeline.name for pipeline in self._pipelines}
        if routes != ours:
            wrong.append(f"files: routes lead to {sorted(routes)}, not {sorted(ours)}")
        models = self._arena.target.client("sagemaker").list_models()["Models"]
        left = {p.name for p in (folder / "models").iterdir()} - {m["ModelName"] for m in models}
        wrong += [f"files: models/{name} is nobody's" for name in sorted(left)]
        left = {path.name for path in (folder / "capture").iterdir()} - ours
        wrong += [f"files: capture/{name} is of an endpoint that is gone" for name in sorted(left)]
        return wrong

    def over(self) -> list[str]:
        """Nothing is left after every pipeline was destroyed and the sandbox stopped."""
        wrong = []
        for script in (("destroy",), ("sandbox", "down")):
            done = self._arena.script(*script)
            if done.returncode:
                wrong.append(f"{' '.join(script)}: {done.returncode} {done.stderr}")
        running = {kind: pids for kind, pids in self._arena.processes().items() if pids}
        if running:
            wrong.append(f"still running after `down`: {running}")
        for place in ("models", "capture", "run/routes"):
            left = [path.name for path in (self._arena.folder / place).iterdir()]
            if left:
                wrong.append(f"left in {place}/ after `down`: {left[:5]}")
        left = [path.name for path in (self._arena.folder / "run").iterdir()]
        if set(left) - {"routes", "control.sock"}:
            wrong.append(f"left in run/ after `down`: {left}")
        return wrong
