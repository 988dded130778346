"""The fleet by itself: whatever happens to its processes, what is written down is what is."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import IMAGE

from orchestrator.images import image_uri
from orchestrator.sandbox.hosting import models
from orchestrator.sandbox.hosting.fleet import CRASHES, Fleet
from orchestrator.sandbox.nursery import Nursery
from orchestrator.sandbox.places import Places
from orchestrator.sandbox.state import State, now

URI = image_uri("sklearn", IMAGE, "us-east-1")
GOOD = "def model_fn(d):\n    return 1\n"
BAD = "def model_fn(d):\n    raise ValueError('no such weights')\n"
SLOW = "import time\ndef model_fn(d):\n    time.sleep(1)\n    return 1\n"
FATAL = "import os\ndef model_fn(d):\n    os._exit(7)\n"


class House:
    """A fleet with its state and its nursery, in a folder, without a sandbox around it."""

    def __init__(self, folder: Path) -> None:
        self.places = Places(folder)
        self.places.make()
        self.state = State(folder / "state.db")
        self.nursery = Nursery([])
        self.nursery.warm_up()
        self.fleet = Fleet(self.state, self.places, self.nursery, {})
        self.fleet.recover()

    def model(self, name: str, code: str) -> None:
        """A model and its configuration, both of this name."""
        code_folder = self.places.model(name) / "code"
        code_folder.mkdir(parents=True)
        (code_folder / "inference.py").write_text(code)
        environment = {
            "SAGEMAKER_PROGRAM": "inference.py",
            "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        }
        container = {"Image": URI, "ModelDataUrl": "s3://b/k.tar.gz", "Environment": environment}
        self.state.insert(
            "models", name=name, request={"PrimaryContainer": container}, created=now()
        )
        variants = [{"VariantName": "AllTraffic", "ModelName": name}]
        request = {"ProductionVariants": variants}
        self.state.insert("endpoint_configs", name=name, request=request, created=now())

    def create(self, config: str) -> None:
        self.state.insert(
            "endpoints", name="e", status="Creating", config=config, created=now(), updated=now()
        )
        self.fleet.tend("e")

    def wish(self, **changes: str) -> None:
        self.state.update("endpoints", {"name": "e"}, **changes)
        self.fleet.tend("e")

    @property
    def row(self) -> dict | None:
        return self.state.row("endpoints", name="e")

    def until(self, condition, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.row
            time.sleep(0.02)

    def settle(self, *states: str) -> dict:
        self.until(lambda: self.row and self.row["status"] in states)
        return self.row

    def processes(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                title = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if title.startswith("sandbox endpoint e ") and str(self.places.folder) in title:
                    found.append(int(process.name))
        return found

    def is_gone(self) -> bool:
        folders = list(self.places.folder.glob("run/endpoint-*"))
        return self.row is None and not self.processes() and not folders


pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    house = House(tmp_path)
    yield house
    house.fleet.close()
    house.state.close()


def test_an_endpoint_comes_up_changes_and_goes(house):
    house.model("one", GOOD)
    house.model("two", GOOD)
    house.create("one")
    house.settle("InService")
    house.wish(status="Updating", next_config="two")
    house.until(lambda: house.row["config"] == "two" and house.row["status"] == "InService")
    house.until(lambda: len(house.processes()) == 1)
    house.wish(status="Deleting")
    house.until(house.is_gone)


@pytest.mark.parametrize(("code", "reason"), [(BAD, "no such weights"), (FATAL, "exit code 7")])
def test_what_does_not_come_up_has_failed_with_its_reason(house, code, reason):
    house.model("bad", code)
    house.create("bad")
    assert reason in house.settle("Failed")["reason"]
    assert not house.processes()
    assert not list(house.places.folder.glob("run/endpoint-*"))


def test_an_update_that_fails_leaves_the_version_before_in_service(house):
    house.model("one", GOOD)
    house.model("bad", BAD)
    house.create("one")
    house.settle("InService")
    [before] = house.processes()
    house.wish(status="Updating", next_config="bad")
    house.until(lambda: house.row["status"] == "InService")
    assert house.row["config"] == "one"
    assert "no such weights" in house.row["reason"]
    assert house.processes() == [before]


def test_deleting_during_a_restart_leaves_no_process(house):
    house.model("slow", SLOW)
    house.create("slow")
    house.settle("InService")
    os.kill(house.processes()[0], signal.SIGKILL)
    house.until(lambda: any(pid for pid in house.processes()))  # the next one is on its way
    house.wish(status="Deleting")
    house.until(house.is_gone)


def test_deleting_while_creating_breaks_it_off(house):
    house.model("slow", SLOW.replace("sleep(1)", "sleep(1000)"))
    house.create("slow")
    house.until(house.processes)
    house.wish(status="Deleting")
    house.until(house.is_gone, 10)


def test_a_wish_that_comes_while_a_process_starts_is_not_overwritten(house):
    house.model("slow", SLOW)
    house.model("one", GOOD)
    house.create("slow")
    house.until(house.processes)
    house.wish(status="Updating", next_config="one")
    house.until(lambda: house.row["status"] == "InService")
    assert house.row["config"] == "one"


def test_a_crash_loop_is_given_up_also_during_an_update(house):
    house.model("one", GOOD)
    house.model("bad", BAD)
    house.create("one")
    house.settle("InService")
    for _ in range(CRASHES):
        house.until(lambda: house.row["status"] == "Failed" or house.processes())
        for pid in house.processes():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.3)
    house.until(lambda: house.row["status"] == "Failed")
    assert "died" in house.row["reason"]
    assert not house.processes()


def test_what_cannot_be_started_for_a_while_is_started_later(house):
    house.model("one", GOOD)
    house.create("one")
    house.settle("InService")
    logs = house.places.folder / "logs"
    logs.rename(house.places.folder / "elsewhere")
    os.kill(house.processes()[0], signal.SIGKILL)
    time.sleep(1)
    assert house.row["status"] == "InService"
    (house.places.folder / "elsewhere").rename(logs)
    house.until(house.processes)
    house.until(lambda: house.places.route("e").exists())


def test_kills_of_the_nursery_are_no_fault_of_the_model(house):
    house.model("slow", SLOW)
    house.create("slow")
    for _ in range(4):
        time.sleep(0.2)
        house.nursery._process.kill()
    house.settle("InService")
    assert house.row["reason"] is None
    house.until(lambda: len(house.processes()) == 1)


def test_a_process_that_dies_with_the_nursery_is_known_to_be_dead(house):
    """Nobody is left to tell its exit code: it must not be waited for until the start-up limit."""
    house.model("slow", SLOW.replace("sleep(1)", "sleep(1000)"))
    began = time.monotonic()
    house.create("slow")
    house.until(house.processes)
    house.nursery._process.kill()
    for pid in house.processes():
        os.kill(pid, signal.SIGKILL)
    house.settle("Failed")
    assert time.monotonic() - began < 30


def test_a_model_that_is_deleted_while_it_is_unpacked_leaves_nothing(house, monkeypatch):
    house.model("one", GOOD)
    unpacked = models.unpacked

    def slowly(places, name, url):
        house.state.delete("models", name=name)  # as SageMaker's DeleteModel does it
        return unpacked(places, name, url)

    monkeypatch.setattr(models, "unpacked", slowly)
    house.create("one")
    assert "deleted" in house.settle("Failed")["reason"]
    assert not house.places.model("one").exists()


def test_folders_that_belong_to_no_model_go_with_the_next_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = Places(tmp_path)
    places.make()
    for name in (".half", "nobodys"):
        places.model(name).mkdir()
    house = House(tmp_path)
    assert not any((tmp_path / "models").iterdir())
    house.fleet.close()
    house.state.close()


def test_a_new_fleet_takes_over_what_runs_and_ends_what_nobody_wants(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    house = House(tmp_path)
    house.model("one", GOOD)
    house.create("one")
    house.settle("InService")
    [pid] = house.processes()
    child = house.fleet._children.pop("e")  # this fleet lets go of it, as a killed one does
    child._connection.close()
    stray = house.places.process("endpoint-stray")
    stray.mkdir()
    house.fleet.close()
    nursery = Nursery([])
    fleet = Fleet(house.state, house.places, nursery, {})
    fleet.recover()
    assert fleet._children["e"].pid == pid
    assert not stray.exists()
    fleet.close()
    house.state.close()
