"""Pipelines: brought up to date with good and bad models, asked for twice at once, deleted on the way.

Each deed is asked for until it is acknowledged, and says in the ledger what did not come out as it
must.
"""

import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from clients.stacks import delete_stack, destroy, snapshots
from common.params import load_params
from orchestrator.contract import PROVISION_PATH, STATUS_PATH
from ordeal.arena import Arena, Client, Gone, until
from ordeal.crowd import Ledger, Pipeline, model, version_of
from scoring.packing import pack

DEED_SECONDS = 90
SLOW_SECONDS = 4  # a model that can be interrupted while it loads
WAIT = 0  # in the place of a status: it was expected, and is asked again
TYPE = "byom_realtime_builtin"
BAD_MODELS = {
    "no archive": b"this is no archive",
    "an import that fails": pack({"code/inference.py": b"import nothing_of_the_kind"}),
    "no model_fn": pack({"code/inference.py": b"x = 1"}),
    "model_fn raises": pack({"code/inference.py": b"def model_fn(d):\n    raise OSError('lost')"}),
    "an exit": pack({"code/inference.py": b"import os\nos._exit(3)"}),
}
# What a request is told that came while another one was being carried out.
ONE_AT_A_TIME = ("can not be updated", "send the request again", "No updates are to be performed")


@dataclass
class Deeds:
    arena: Arena
    ledger: Ledger

    # -- requests to the orchestrator --------------------------------------------------

    def payload(self, name: str) -> dict:
        return {
            "pipeline_type": TYPE,
            "model_name": name,
            "model_framework": "sklearn",
            "model_framework_version": load_params()["image"],
            "model_artifact_location": f"models/{name}.tar.gz",
            "data_capture_location": f"{self.arena.bucket}/{name}/datacapture",
            "inference_instance": "ml.m5.large",
            "endpoint_name": name,
        }

    def upload(self, name: str, archive: bytes) -> None:
        key = self.payload(name)["model_artifact_location"]
        self._insist(
            "s3", lambda client: client.send("s3", "PUT", f"/{self.arena.bucket}/{key}", archive)
        )

    def provision(self, name: str, one_at_a_time: bool = False) -> str:
        """Ask for a pipeline until that is acknowledged; its id. It may have to wait for another
        request: one of `one_at_a_time`, or one of ours that was not answered."""

        def ask(client: Client) -> tuple[int, dict]:
            status, answer = client.post(PROVISION_PATH, self.payload(name))
            waits = status == 400 and any(words in str(answer) for words in ONE_AT_A_TIME)
            if waits and one_at_a_time:
                self.ledger.count("refused as expected")
                return WAIT, answer
            return (503, answer) if waits and "api" in self.ledger.hurt else (status, answer)

        return self._insist("api", ask)["pipeline_id"]

    def state(self, pipeline_id: str) -> tuple[str, dict]:
        """The final state of a pipeline's deployment, and the whole answer."""
        body, deadline = {"pipeline_id": pipeline_id}, time.monotonic() + DEED_SECONDS
        while True:
            answer = self._insist("api", lambda client: client.post(STATUS_PATH, body))
            state = answer["stageStates"][-1]["latestExecution"]["status"]
            if state != "InProgress" or time.monotonic() > deadline:
                return state, answer
            time.sleep(0.1)

    def _insist(self, way: str, ask):
        """Ask until something else comes than what a killed process leaves: the answer of a 200."""
        client, deadline = Client(self.arena), time.monotonic() + DEED_SECONDS
        while time.monotonic() < deadline:
            hurt = self.ledger.hurt
            try:
                status, answer = ask(client)
            except Gone as gone:
                self.ledger.unanswered(way, str(gone), hurt)
            else:
                if status == 200:
                    return answer
                if status == 503:
                    self.ledger.unanswered(way, str(answer), hurt)
                elif status != WAIT:
                    raise AssertionError(f"{way}: {status} {answer}")
            time.sleep(0.2)
        raise AssertionError(f"{way}: no answer in {DEED_SECONDS} s")

    # -- pipelines that stay -----------------------------------------------------------

    def create(self, pipeline: Pipeline) -> None:
        self.upload(pipeline.name, pipeline.archive)
        self._must_be("Succeeded", pipeline.name, self.provision(pipeline.name))

    def update(self, pipeline: Pipeline) -> None:
        """The next version must take over."""
        version = pipeline.version + 1
        self.upload(pipeline.name, model(version))
        pipeline.allowed = {pipeline.version, version}
        pipeline_id = self.provision(pipeline.name)
        while self._was_killed(pipeline_id):
            self.ledger.count("updates asked for again")
            pipeline_id = self.provision(pipeline.name)
        if self._must_be("Succeeded", pipeline.name, pipeline_id):
            pipeline.version = version
            self.ledger.count("updates")
        pipeline.allowed = {pipeline.version}

    def update_badly(self, pipeline: Pipeline, kind: str) -> None:
        """The version before must go on, and the status must say that this one failed."""
        self.upload(pipeline.name, BAD_MODELS[kind])
        self._must_be("Failed", pipeline.name, self.provision(pipeline.name))
        self.ledger.count("roll-backs")

    def _was_killed(self, pipeline_id: str) -> bool:
        """Whether an update was rolled back because we have killed the new version as it came up."""
        state, answer = self.state(pipeline_id)
        killed = state == "Failed" and f"exit code -{signal.SIGKILL:d} " in str(answer)
        return killed and "predict" in self.ledger.hurt

    def _must_be(self, wanted: str, name: str, pipeline_id: str) -> bool:
        state, answer = self.state(pipeline_id)
        if state != wanted:
            stage = answer["stageStates"][1]["actionStates"][0]["latestExecution"]
            self.ledger.fault(f"{name} is {state}, not {wanted}: {stage}")
        return state == wanted

    # -- pipelines that go with the round ----------------------------------------------

    def answer_is_of(self, name: str, version: int) -> None:
        status, answer = Client(self.arena).predict(name, b"1")
        if status != 200 or version_of("1", answer.decode()) != version:
            self.ledger.fault(f"{name} answers {status} {answer!r}, not as version {version}")

    def stack(self, name: str) -> str:
        return f"mlops-pipeline-{name}-byompipelinerealtimebuiltin-codepipeline"

    def remove(self, name: str) -> None:
        """Delete a pipeline with its copies of models and what was captured."""
        target, stack = self.arena.target, self.stack(name)
        destroy(target, stack, snapshots(target, stack))
        s3 = self.arena.s3(patient=True)
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.arena.bucket, Prefix=f"{name}/"
        )
        for item in [item for page in pages for item in page.get("Contents", [])]:
            s3.delete_object(Bucket=self.arena.bucket, Key=item["Key"])

    def ask_at_once(self, name: str, count: int) -> list[tuple[int, dict]]:
        """The same request from several clients at the same moment: their answers."""
        barrier = threading.Barrier(count)

        def ask(_: int) -> tuple[int, dict]:
            client = Client(self.arena)
            barrier.wait()
            return client.post(PROVISION_PATH, self.payload(name))

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(ask, range(count)))

    def twins(self, name: str, draw: random.Random) -> None:
        """The same pipeline is asked for several times at once, and then its next version is."""
        for version in (1, 2):
            self.upload(name, model(version))
            answers = self.ask_at_once(name, draw.randint(2, 8))
            given = {answer.get("pipeline_id") for status, answer in answers if status == 200}
            refused = [(status, answer) for status, answer in answers if status != 200]
            if len(given) != 1:
                self.ledger.fault(f"twins were given {sorted(map(str, given))}: {answers}")
                continue
            for status, answer in refused:
                if status != 400 or not any(words in str(answer) for words in ONE_AT_A_TIME):
                    self.ledger.fault(f"a twin was answered {status} {answer}")
            self.ledger.count("refused as expected", len(refused))
            self._must_be("Succeeded", name, given.pop())
            self.answer_is_of(name, version)
        self.remove(name)

    def provision_while_deleting(self, name: str, draw: random.Random) -> None:
        """What is asked for while its forerunner is being deleted is there in the end."""
        self.upload(name, model(1))
        self._must_be("Succeeded", name, self.provision(name))
        self.upload(name, model(2))
        deleting = threading.Thread(target=delete_stack, args=(self.arena.target, self.stack(name)))
        deleting.start()
        time.sleep(draw.uniform(0, 0.3))
        pipeline_id = self.provision(name, one_at_a_time=True)
        deleting.join()
        state, _ = self.state(pipeline_id)
        if state == "Succeeded":
            self.answer_is_of(name, 2)
        elif self._is_there(name):  # it was an update, and the deletion came after it
            self.ledger.fault(f"{name} is {state} after a deletion")
        self.remove(name)

    def delete_under_way(self, name: str, draw: random.Random, update: bool) -> None:
        """A deletion ends what is being made, or brought up to date, at whatever moment it comes."""
        if update:
            self.upload(name, model(1))
            self._must_be("Succeeded", name, self.provision(name))
        self.upload(name, model(2, SLOW_SECONDS))
        self.provision(name)
        time.sleep(draw.choice([0, draw.uniform(0, SLOW_SECONDS + 1)]))
        began = time.monotonic()
        self.remove(name)
        took = time.monotonic() - began
        if took > 2 * SLOW_SECONDS:
            self.ledger.fault(f"{name}: the deletion took {took:.1f} s")
        if not until(lambda: not self._is_there(name), 5):
            self.ledger.fault(f"{name} still answers after its deletion")

    def _is_there(self, name: str) -> bool:
        return Client(self.arena).predict(name, b"1")[0] != 400
