"""What is done to a sandbox in a round, by name: `FAULTS[name](world, draw)`.

`draw` is the round's own random numbers, so that a seed gives the same faults whatever happens. A
fault says first which requests it may leave unanswered; every other one must be answered while it
lasts, and all of them afterwards.
"""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from common.errors import UserError
from ordeal.arena import Arena, Client, until
from ordeal.crowd import FOLDER, Crowd, Ledger, Pipeline
from ordeal.deeds import BAD_MODELS, Deeds

# Which requests need a process: they may meet its end, or nobody.
NEEDED_BY = {
    "server": ("api",),
    "nursery": (),
    "front": ("predict", "api"),
    "store": ("s3", "api"),
    "weed": ("s3", "api"),
    "endpoint": ("predict",),
}
IDLE_CONNECTIONS = 200
BYTE_SECONDS = 0.005
NEAR, FAR = 10 * 60, 20 * 60  # from the server's time: let in, refused


@dataclass
class World:
    arena: Arena
    ledger: Ledger
    deeds: Deeds
    crowd: Crowd
    pipeline: Pipeline  # the one that is brought up to date
    name: str  # for pipelines that go with the round

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Bring the pipeline up to date at the same time; it must get there."""
        failure: list[BaseException] = []

        def update() -> None:
            try:
                self.deeds.update(self.pipeline)
            except Exception as error:
                failure.append(error)

        thread = threading.Thread(target=update)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failure:
            raise failure[0]


Fault = Callable[[World, random.Random], None]


# -- kill -9 --------------------------------------------------------------------------


def kill(world: World, draw: random.Random, *kinds: str) -> None:
    """Processes are killed, at rest or during an update; the sandbox is started again by its user,
    everything else by the sandbox."""
    world.ledger.expect(*{way for kind in kinds for way in NEEDED_BY[kind]})
    during_update = draw.random() < 0.6
    with world.updating() if during_update else contextlib.nullcontext():
        time.sleep(draw.uniform(0, 0.8))
        for kind in kinds:
            world.ledger.count("processes killed", world.arena.kill(kind))
        time.sleep(draw.uniform(0, 1.5))
        if "server" in kinds:
            world.arena.up()


def kill_several(world: World, draw: random.Random) -> None:
    kill(world, draw, *draw.sample(sorted(NEEDED_BY), draw.randint(2, 3)))


def kill_everything(world: World, draw: random.Random) -> None:
    """Also what would have been taken over: the endpoints have to be started again."""
    kill(world, draw, *draw.sample(sorted(NEEDED_BY), len(NEEDED_BY)))


def kill_and_leave(world: World, draw: random.Random) -> None:
    """The sandbox is killed, and nobody starts it: what it has left ends by itself."""
    world.ledger.expect("predict", "api", "s3")
    world.arena.kill("server")
    world.ledger.count("processes killed")
    if not until(lambda: not any(world.arena.processes().values()), 60):
        world.ledger.fault(f"a killed sandbox's processes do not end: {world.arena.processes()}")
    world.arena.up()


# -- the disk -------------------------------------------------------------------------


def fill_disk(world: World, draw: random.Random, victim: str | None = None) -> None:
    """The disk is full for some seconds, and perhaps somebody dies meanwhile."""
    world.ledger.expect("s3", "api", *(NEEDED_BY[victim] if victim else ()))
    world.ledger.capture_hurt = True
    world.arena.fill_disk()
    try:
        if victim:
            time.sleep(draw.uniform(0, 1))
            world.ledger.count("processes killed", world.arena.kill(victim))
        elif draw.random() < 0.5:
            _provision_on_a_full_disk(world)
        time.sleep(draw.uniform(1, 4))
        if victim == "server":
            with contextlib.suppress(UserError):  # it may refuse to start on such a disk
                world.arena.up()
    finally:
        world.arena.heal_disk()
    if victim == "server":
        world.arena.up()
    world.deeds.update(world.pipeline)


def _provision_on_a_full_disk(world: World) -> None:
    """It is refused, or carried out; the next update is asked for in any case."""
    client = Client(world.arena)
    payload = world.deeds.payload(world.pipeline.name)
    status, answer = client.post("/provisionpipeline", payload)
    if status == 500:
        world.ledger.fault(f"on a full disk, a provision is answered {status} {answer}")
    world.ledger.count("refused as expected", status != 200)


def set_read_only(world: World, draw: random.Random) -> None:
    """A sandbox that is stopped finds its disk read-only: it says so, and starts when it is not."""
    world.ledger.expect("predict", "api", "s3")
    world.arena.script("sandbox", "down")
    if not world.arena.set_read_only():
        world.ledger.fault("after `down`, somebody still writes to the sandbox's folder")
    try:
        refused = world.arena.script("sandbox", "up")
    finally:
        world.arena.heal_disk()
    if (
        refused.returncode != 1
        or "Read-only" not in refused.stderr
        or "Traceback" in refused.stderr
    ):
        world.ledger.fault(f"`up` on a read-only disk: {refused.returncode} {refused.stderr}")
    world.ledger.count("refused as expected")
    world.arena.up()


# -- the clock ------------------------------------------------------------------------


def skew_clients(world: World, draw: random.Random) -> None:
    """Clients whose clock is wrong by ten minutes are let in, by twenty refused; both ways."""
    client, name = Client(world.arena), world.pipeline.name
    status = {"pipeline_id": world.deeds.stack(name)}
    ways = {
        "predict": lambda skew: client.predict(name, b"1", skew=skew),
        "api": lambda skew: client.post("/pipelinestatus", status, skew),
        "s3": lambda skew: client.send("s3", "GET", f"/{world.arena.bucket}", skew=skew),
    }
    for way, ask in draw.sample(sorted(ways.items()), len(ways)):
        for skew in (-FAR, -NEAR, NEAR, FAR):
            found, wanted = ask(skew)[0], 200 if abs(skew) == NEAR else 403
            if found != wanted:
                world.ledger.fault(f"{way}, signed {skew} s from now: {found}, not {wanted}")
            world.ledger.count("refused as expected", found == 403)


def jump_clock(world: World, draw: random.Random) -> None:
    """The server's clock jumps by up to ten minutes, stays there, and comes back."""
    world.arena.set_clock(draw.choice([-1, 1]) * draw.randint(60, NEAR))
    try:
        with world.updating() if draw.random() < 0.5 else contextlib.nullcontext():
            time.sleep(draw.uniform(1, 6))
    finally:
        world.arena.set_clock(0)


# -- slow and hostile clients ---------------------------------------------------------


def _request(world: World, service: str, method: str, path: str, body: bytes) -> tuple:
    """Address and bytes of a signed request."""
    address, headers = world.arena.signed(service, method, path, body, {})
    lines = [f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    return address, "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _side_by_side(tasks: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def send_slowly(world: World, draw: random.Random) -> None:
    """Headers and bodies come a byte at a time, are answered, and keep nobody else waiting."""
    prediction = f"/endpoints/{world.pipeline.name}/invocations"

    def trickle(service: str, method: str, path: str, body: bytes) -> None:
        address, message = _request(world, service, method, path, body)
        with socket.create_connection(address, 60) as connection:
            for byte in message:
                connection.sendall(bytes([byte]))
                time.sleep(BYTE_SECONDS)
            first = connection.recv(4096).partition(b"\r\n")[0]
        if b" 200 " not in first + b" ":
            world.ledger.fault(f"a slow {method} of {path} was answered {first!r}")
        world.ledger.count("slow requests answered")

    slow = [("sagemaker", "POST", prediction, b"1"), ("s3", "GET", f"/{world.arena.bucket}", b"")]
    slow.append(("s3", "PUT", f"/{world.arena.bucket}/slow", bytes(100)))
    _side_by_side([partial(trickle, *draw.choice(slow)) for _ in range(5)])


def _endless_header(world: World, connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\n")
    line = b"X-Endless: " + b"a" * 1000 + b"\r\n"
    end = time.monotonic() + 3
    while time.monotonic() < end:
        connection.sendall(line)
        time.sleep(0.001)


def _garbage(world: World, connection: socket.socket) -> None:
    connection.sendall(random.Random(0).randbytes(1 << 16))
    connection.recv(4096)


def _huge_length(world: World, connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999999\r\n\r\n1")
    connection.settimeout(2)
    connection.recv(4096)


def _half_a_body(world: World, connection: socket.socket) -> None:
    path = f"/{world.arena.bucket}/{FOLDER}half"
    if connection.getpeername()[1] % 2 == 0:  # the sandbox's own port, and not S3's
        path = f"/endpoints/{world.pipeline.name}/invocations"
    service = "sagemaker" if path.startswith("/endpoints") else "s3"
    method = "POST" if service == "sagemaker" else "PUT"
    _, message = _request(world, service, method, path, bytes(1 << 16))
    connection.sendall(message[: -(1 << 15)])


def _idle(world: World, connection: socket.socket) -> None:
    address = connection.getpeername()
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(socket.create_connection(address, 5))
        time.sleep(3)


HOSTILE = (_endless_header, _garbage, _huge_length, _half_a_body, _idle)


def attack(world: World, draw: random.Random) -> None:
    """Clients that mean harm, at both ports, three at a time; everybody else is answered."""
    addresses = [world.arena.signed(s, "GET", "/", b"", {})[0] for s in ("s3", "execute-api")]

    def run(way, address) -> None:
        # To be thrown out, or to wait in vain, is what they are for.
        with contextlib.suppress(OSError), socket.create_connection(address, 5) as connection:
            way(world, connection)
        world.ledger.count("hostile clients")

    ways = [partial(run, way, address) for way in HOSTILE for address in addresses]
    _side_by_side(draw.sample(ways, 3))


# -- requests that meet each other, models that are no good ---------------------------


def update(world: World, draw: random.Random) -> None:
    world.deeds.update(world.pipeline)


def update_badly(world: World, draw: random.Random) -> None:
    for kind in draw.sample(sorted(BAD_MODELS), 2):
        world.deeds.update_badly(world.pipeline, kind)
    if draw.random() < 0.5:
        world.deeds.update(world.pipeline)


FAULTS: dict[str, Fault] = {
    **{f"kill {kind}": lambda w, d, kind=kind: kill(w, d, kind) for kind in NEEDED_BY},
    "kill several": kill_several,
    "kill everything": kill_everything,
    "kill and leave": kill_and_leave,
    "full disk": fill_disk,
    **{
        f"full disk, kill {kind}": lambda w, d, kind=kind: fill_disk(w, d, kind)
        for kind in ("server", "store", "endpoint")
    },
    "read-only disk": set_read_only,
    "clients' clocks": skew_clients,
    "clock": jump_clock,
    "slow clients": send_slowly,
    "hostile clients": attack,
    "twins": lambda w, d: w.deeds.twins(w.name, d),
    "provision while deleting": lambda w, d: w.deeds.provision_while_deleting(w.name, d),
    "delete while creating": lambda w, d: w.deeds.delete_under_way(w.name, d, update=False),
    "delete while updating": lambda w, d: w.deeds.delete_under_way(w.name, d, update=True),
    "update": update,
    "bad models": update_badly,
}
NEEDS = {  # what an arena may be without
    name: "disk" if "disk" in name else "clock"
    for name in FAULTS
    if "disk" in name or name == "clock"
}
