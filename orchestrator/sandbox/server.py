"""The sandbox's server: which request is for which part of it, and what it does on its own.

A request's signature says which service it is for, as on AWS the host name does. The
orchestrator's API is served below `/prod`, by the handler that runs on AWS.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import secrets
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nanio.app import build_app
from nanio.auth.credentials import StaticCredentialResolver
from nanio.config import Settings
from nanio.errors import S3Error

from orchestrator.handler import handler
from orchestrator.sandbox import gate, s3, web
from orchestrator.sandbox.capture import finish_orphans, object_key
from orchestrator.sandbox.errors import AwsError
from orchestrator.sandbox.fleet import Fleet
from orchestrator.sandbox.resources import Endpoint, EndpointConfig, Model
from orchestrator.sandbox.runtime import MAX_BODY, Runtime
from orchestrator.sandbox.stacks import ACCOUNT, Stacks
from orchestrator.sandbox.state import State, now, write_json
from orchestrator.sandbox.wire import CloudFormation, SageMaker

log = logging.getLogger("sandbox")

REGION = "us-east-1"
STAGE = "/prod"
ASSETS_BUCKET = "pulsar-assets"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/sandbox"
API_PATHS = re.compile(r"/provisionpipeline|/pipelinestatus|/pipelines/[^/]+/inference")
NO_TOKEN = AwsError("MissingAuthenticationToken", "Missing Authentication Token", 403)
SWEEP_SECONDS = 0.5


class Sandbox:
    """The ASGI application."""

    def __init__(self, folder: Path, credentials: StaticCredentialResolver, commands: dict) -> None:
        self._credentials = credentials
        buckets = folder / "s3"
        s3.mend(buckets)
        self._s3_app = build_app(Settings(data_dir=buckets, region=REGION, credentials=credentials))
        self._s3 = self._s3_app.state.storage
        if not (buckets / ASSETS_BUCKET).exists():
            self._s3.create_bucket(ASSETS_BUCKET)
        self._state = State(folder / "state.db")
        self._fleet = Fleet(self._state, folder, commands)
        providers = [
            Model(folder, self._s3),
            EndpointConfig(self._state, self._s3),
            Endpoint(self._state, self._fleet),
        ]
        self._stacks = Stacks(self._state, REGION, providers)
        self._cloudformation = CloudFormation(self._stacks, self._state)
        self._sagemaker = SageMaker(self._state, REGION)
        self._runtime = Runtime(self._state, self._fleet, REGION, str(folder))
        # The handler calls back into this process: its threads must not be the ones that
        # answer those calls.
        self._handlers = ThreadPoolExecutor(16, thread_name_prefix="handler")

    def start(self) -> None:
        """Bring back what ran before: endpoints in service, operations under way."""
        self._fleet.recover()
        self._stacks.resume()

    def close(self) -> None:
        self._stacks.close()
        self._fleet.close()

    async def __call__(self, scope, receive, send) -> None:
        headers = web.headers_of(scope)
        service = gate.service_of(headers)
        ours = scope["path"].startswith((STAGE + "/", "/endpoints/"))
        if service == "s3" or (service is None and not ours):
            # Presigned URLs carry no header; nanio refuses what carries no signature at all.
            await self._s3_app(scope, s3.checking_body(receive, headers), send)
            return
        body = await web.read_body(receive, MAX_BODY)
        try:
            answer = await self._answer(service, scope, headers, body)
        except AwsError as error:
            answer = gate.refusal(service, error)
        except Exception as error:
            log.exception("a request could not be answered")
            message = f"The sandbox could not do it: {error}"
            answer = gate.refusal(service, AwsError("InternalFailure", message, 500))
        await web.send_answer(send, answer)

    async def _answer(self, service: str | None, scope, headers: dict, body: bytes) -> web.Answer:
        """Check a request to any service but S3, and answer it; AwsError refuses it."""
        path, query = scope["path"], scope["query_string"].decode("latin-1")
        if service is None:
            raise NO_TOKEN
        if len(body) > MAX_BODY:
            message = f"The body is longer than the {MAX_BODY} bytes that are allowed."
            raise AwsError("ValidationError", message, 413)
        gate.check(scope["method"], path, query, headers, body, self._credentials)
        if service == "execute-api":
            return await self._answer_api(scope["method"], path, headers, body)
        if service == "sagemaker" and path != "/":
            return await self._runtime.answer(path, headers, body)
        if service == "sagemaker":
            target = headers.get("x-amz-target", "")
            return await asyncio.to_thread(self._sagemaker.answer, target, body)
        if service == "cloudformation":
            return await asyncio.to_thread(self._cloudformation.answer, body)
        raise AwsError("UnknownService", f"The sandbox has no service called {service}", 404)

    async def _answer_api(self, method: str, path: str, headers: dict, body: bytes) -> web.Answer:
        """API Gateway: two POST methods, and nothing else is there."""
        path = path.removeprefix(STAGE)
        if method != "POST" or not API_PATHS.fullmatch(path):
            raise NO_TOKEN
        event = {
            "resource": path,
            "path": path,
            "httpMethod": method,
            "headers": headers,
            "body": body.decode(errors="replace"),
            "isBase64Encoded": False,
        }
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._handlers, handler, event, None)
        content_type = answer["headers"]["Content-Type"]
        return web.Answer(answer["statusCode"], content_type, answer["body"].encode())

    async def sweep(self) -> None:
        """Tidy up, again and again, for as long as the sandbox runs."""
        while True:
            try:
                await self.sweep_once()
            except Exception:
                log.exception("tidying up failed; it is tried again")
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep_once(self) -> None:
        """Move finished capture files to S3, close connections to ended processes."""
        await self._runtime.close_sessions()
        for spool in self._fleet.spools():
            finish_orphans(spool)
            for path in sorted(spool.glob("*.jsonl")):
                try:
                    self._publish(path)
                except (S3Error, OSError) as error:
                    log.warning("%s stays in the spool: %s", path, error)

    def _publish(self, path: Path) -> None:
        where = json.loads((path.parent / "destination.json").read_text())
        bucket, prefix = s3.split_url(where["destination"])
        endpoint = path.parent.parent.name
        key = object_key(path.name, prefix, endpoint, where["variant"])
        if path.stat().st_size:
            s3.adopt(self._s3, bucket, key, path)
        else:
            path.unlink()


def load_credentials(folder: Path) -> tuple[str, str]:
    """Access key and secret, made at the first start and kept, readable by the owner only."""
    path = folder / "credentials.json"
    if not path.exists():
        key = f"SANDBOX{secrets.token_hex(6).upper()}"
        write_json(path, {"access_key": key, "secret": secrets.token_urlsafe(30)}, mode=0o600)
    pair = json.loads(path.read_text())
    return pair["access_key"], pair["secret"]


async def serve(folder: Path, listener: socket.socket, commands: dict) -> None:
    access_key, secret = load_credentials(folder)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    os.environ |= {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "ASSETS_BUCKET": ASSETS_BUCKET,
        "SAGEMAKER_ROLE_ARN": ROLE,
        "API_URL": f"{url}{STAGE}/",
    }
    credentials = StaticCredentialResolver({access_key: secret})
    sandbox = await asyncio.to_thread(Sandbox, folder, credentials, commands)
    serving = await web.start(sandbox, drain_seconds=65, sockets=[listener])
    sandbox.start()
    status = folder / "status.json"
    write_json(status, {"state": "running", "url": url, "pid": os.getpid(), "since": now()})
    sweeping = asyncio.create_task(sandbox.sweep())
    try:
        await serving
    finally:
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping
        await asyncio.to_thread(sandbox.close)
        await sandbox.sweep_once()
        write_json(status, {"state": "stopped", "url": url, "since": now()})
