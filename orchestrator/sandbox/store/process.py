"""The store's process: SeaweedFS as a child, and the gate in front of it.

It says that it is ready when SeaweedFS answers and every other way in was found closed. A SeaweedFS
that dies is started again, while callers wait.
"""

import asyncio
import logging
import os
import shutil
import socket
from pathlib import Path

import uvloop
from setproctitle import setproctitle

from orchestrator.sandbox import web
from orchestrator.sandbox.children import ChildFailed, Line
from orchestrator.sandbox.gate import Gate
from orchestrator.sandbox.hosting.manners import be_modest
from orchestrator.sandbox.places import REGION, SPARE_BYTES, Places, load_credentials
from orchestrator.sandbox.store.proof import ways_in
from orchestrator.sandbox.store.seaweed import Seaweed

log = logging.getLogger("store")

WATCH_SECONDS = 0.1
HEARD_SECONDS = 1  # for the last word to be read


def settle(weed: Seaweed) -> None:
    """Wait until SeaweedFS answers, and see that nobody else can get at it."""
    weed.settle()
    open_ways = ways_in(weed.ports)
    if open_ways:
        weed.stop()
        raise ChildFailed(f"The store is open to others ({', '.join(open_ways)}) and was stopped.")
    log.info("SeaweedFS is process %d; no other way into it is open", weed.pid)


async def keep(weed: Seaweed, up: asyncio.Event, data: Path) -> None:
    """Start SeaweedFS again whenever it dies, and after the disk was full: its database takes no
    write any more once one has failed."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        free = shutil.disk_usage(data).free
        weed.was_full = weed.was_full or free < SPARE_BYTES
        if weed.was_full and free > 2 * SPARE_BYTES:
            log.warning("the disk has room again, and SeaweedFS is stopped")
            up.clear()
            await asyncio.to_thread(weed.stop)
            weed.was_full = False
        if weed.alive:
            continue
        up.clear()
        log.warning("SeaweedFS is started again")
        try:
            weed.begin()
            await asyncio.to_thread(settle, weed)
            up.set()
        except ChildFailed as error:
            log.error("%s", error)
            await asyncio.sleep(1)


async def serve(weed: Seaweed, places: Places, line: Line, listener: socket.socket) -> None:
    # Imported while SeaweedFS starts.
    from orchestrator.sandbox.store.gate import StoreGate

    up = asyncio.Event()
    gate = Gate(*load_credentials(places), REGION)
    data = places.folder / "store" / "data"
    store = StoreGate(gate, weed, data, up)
    await asyncio.to_thread(settle, weed)
    up.set()
    serving = await web.start(store, [listener], drain_seconds=10)
    line.tell(ready=True)
    keeping = asyncio.create_task(keep(weed, up, data))
    await serving
    keeping.cancel()
    await store.close()


def main(folder: str, name: str, number: int) -> None:
    """`name` is the process's own, `number` that of the listening socket."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.raiseExceptions = False  # a log that cannot be written is no reason to fail
    setproctitle(f"sandbox store {folder}")
    os.chdir(folder)
    os.umask(0o077)
    be_modest()  # predictions come first
    listener = socket.socket(fileno=number)
    line = Line(name, {"kind": "store"}, [listener])
    weed = Seaweed(Path(folder, "store"))
    try:
        weed.begin()
        uvloop.run(serve(weed, Places(Path(folder)), line, listener))
    except ChildFailed as error:
        line.tell(failed=str(error))
        line.wait_until_heard(HEARD_SECONDS)
    finally:
        weed.stop()
