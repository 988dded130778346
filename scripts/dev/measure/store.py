"""The object store: through the gate, beside SeaweedFS alone; and what an upload costs an endpoint."""

import hashlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from common.output import say
from measure import load, servers
from measure.place import DEFAULT, Place, Sandbox, sandbox

LARGE = bytes(range(256)) * 250_000  # 64 MB
SMALL = LARGE[:1000]
CLIENTS = 32
GATE, ALONE = "through the gate", "SeaweedFS alone"


@cache
def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class _Signer(S3SigV4Auth):
    """Reckons a body's hash once: it is the stores that are measured."""

    def payload(self, request: AWSRequest) -> str:
        return _digest(request.data or b"")


@dataclass(frozen=True)
class Store:
    """An S3 that is asked with signed bodies, as `aws s3 cp` asks one."""

    address: str
    credentials: Credentials
    bucket: str

    def ask(self, connection: http.client.HTTPConnection, method: str, key: str, body: bytes = b""):
        url = f"http://{self.address}/{self.bucket}/{key}"
        request = AWSRequest(method, url, data=body)
        _Signer(self.credentials, "s3", "us-east-1").add_auth(request)
        connection.request(method, f"/{self.bucket}/{key}", body or None, dict(request.headers))
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {url}: {answer.status} {content[:300]!r}")
        return content


def measure(place: Place) -> dict[tuple, float]:
    figures: dict[tuple, float] = {}
    with sandbox(place.folder / "sandbox") as running:
        stores = {GATE: _gate(running), ALONE: _alone(running, place.folder / "sandbox" / "store")}
        for name, store in stores.items():
            figures |= {(name, what): value for what, value in _rates(name, store, place).items()}
        running.upload(place.archives[DEFAULT], "model.tar.gz")
        running.deploy("bench", "model.tar.gz")
        server = servers.through_sandbox(place, running, "bench")
        load.load(server.address, server.request, 2, min(1.0, place.seconds))
        say(f"bench: predictions, {CLIENTS} clients, with and without an upload")
        quiet = load.load(server.address, server.request, CLIENTS, place.seconds)
        with _uploads(stores[GATE]) as done:
            busy = load.load(server.address, server.request, CLIENTS, place.seconds)
        figures["predictions", "p99 ms"] = quiet["p99 ms"]
        figures["predictions", "p99 ms during uploads"] = busy["p99 ms"]
        figures["predictions", "requests/s"] = quiet["requests/s"]
        figures["predictions", "requests/s during uploads"] = busy["requests/s"]
        figures["predictions", "MB/s of uploads meanwhile"] = done[0]
    return figures


def _gate(running: Sandbox) -> Store:
    target = running.target
    keys = target.session.get_credentials().get_frozen_credentials()
    host = urlsplit(target.environment["AWS_ENDPOINT_URL_S3"]).netloc
    return Store(host, Credentials(keys.access_key, keys.secret_key), target.bucket)


def _alone(running: Sandbox, folder: Path) -> Store:
    """Past the gate, with the gate's own key: for this measurement only."""
    ports = json.loads((folder / "ports.json").read_text())
    identity = json.loads((folder / "conf" / "s3.json").read_text())["identities"][0]
    key = identity["credentials"][0]
    credentials = Credentials(key["accessKey"], key["secretKey"])
    return Store(f"127.0.0.1:{ports['s3']}", credentials, running.target.bucket)


def _rates(name: str, store: Store, place: Place) -> dict[str, float]:
    connection = http.client.HTTPConnection(store.address)

    def repeated(method: str, key: str, body: bytes = b"") -> float:
        """Requests a second."""
        store.ask(connection, method, key, body)
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < place.seconds:
            store.ask(connection, method, key, body)
            count += 1
        return count / (time.perf_counter() - began)

    figures = {}
    for what, body in (("64 MB", LARGE), ("1 kB", SMALL)):
        for method, verb in (("PUT", "write"), ("GET", "read")):
            say(f"bench: {name}, {verb} {what}")
            rate = repeated(method, f"bench-{len(body)}", body if method == "PUT" else b"")
            if body is LARGE:
                figures[f"{verb}, MB/s"] = rate * len(body) / 1e6
            else:
                figures[f"{verb} {what}, objects/s"] = rate
    connection.close()
    return figures


@contextmanager
def _uploads(store: Store) -> Iterator[list[float]]:
    """Uploads of 64 MB one after the other; their rate in MB/s, once it is over."""
    over, rate = threading.Event(), []

    def upload() -> None:
        connection = http.client.HTTPConnection(store.address)
        sent, began = 0, time.perf_counter()
        while not over.is_set():
            store.ask(connection, "PUT", "bench-upload", LARGE)
            sent += len(LARGE)
        rate.append(sent / (time.perf_counter() - began) / 1e6)

    uploading = threading.Thread(target=upload)
    uploading.start()
    try:
        yield rate
    finally:
        over.set()
        uploading.join()


def table(medians: pd.Series) -> str:
    stores = medians[[GATE, ALONE]].unstack(0)
    stores["ratio"] = stores[GATE] / stores[ALONE]
    formats = {GATE: "{:,.0f}", ALONE: "{:,.0f}", "ratio": "{:.2f}"}
    shown = stores.rename_axis(None).to_string(formatters={k: v.format for k, v in formats.items()})
    figures = "\n".join(f"{k:28}{v:10,.1f}" for k, v in medians["predictions"].items())
    return f"{shown}\n\npredictions, {CLIENTS} clients\n{figures}"


def plot(axes, medians: pd.Series) -> None:
    rates = medians[[GATE, ALONE]].unstack(0).filter(like="MB/s", axis=0)
    rates.plot.barh(ax=axes, xlabel="MB/s", ylabel="")
