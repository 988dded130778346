"""How a transform job asks its model: how much at once, and how many requests at a time.

What the request says comes first, then what the container says of itself at /execution-parameters,
then SageMaker's defaults.

Source: SageMaker developer guide, "Use your own inference code with batch transform".
"""

import asyncio
import json
from dataclasses import dataclass

from orchestrator.sandbox.hop import Broken, Hop, Reply
from orchestrator.sandbox.jobs.work import JobFailed

MEGABYTE = 1 << 20
USUAL_MEGABYTES, USUAL_CONCURRENT, USUAL_STRATEGY = 6, 1, "MultiRecord"
SECONDS = 30  # for a container to say how it wants to be asked
MOST_MEGABYTES = 100  # of all requests at once
STRATEGIES = {"MULTI_RECORD": "MultiRecord", "SINGLE_RECORD": "SingleRecord"}


@dataclass(frozen=True)
class Limits:
    bytes: int  # of a request
    strategy: str
    concurrent: int  # requests


def asked(request: dict, socket: str) -> Limits:
    """What holds for CreateTransformJob's request and the container that listens there.

    JobFailed for what cannot hold, OSError for a container that is gone.
    """

    async def ask() -> Reply:
        return await asyncio.wait_for(
            Hop(socket).ask("GET", "/execution-parameters", (), b""), SECONDS
        )

    try:
        return _limits(request, asyncio.run(ask()))
    except TimeoutError:
        raise JobFailed(
            f"AlgorithmError: /execution-parameters did not answer within {SECONDS} s."
        ) from None
    except Broken:
        raise ConnectionError("The model's process ended.") from None


def _limits(request: dict, reply: Reply) -> Limits:
    own = {}
    if reply.status == 200:
        try:
            own = json.loads(reply.body)
        except ValueError:
            raise JobFailed("ClientError: /execution-parameters does not answer JSON.") from None
        if not isinstance(own, dict):
            raise JobFailed("ClientError: /execution-parameters does not answer a JSON object.")

    def chosen(key: str, usual: object) -> object:
        return request.get(key, own.get(key, usual))

    try:
        megabytes = int(chosen("MaxPayloadInMB", USUAL_MEGABYTES))
        concurrent = int(chosen("MaxConcurrentTransforms", USUAL_CONCURRENT)) or USUAL_CONCURRENT
    except (TypeError, ValueError):
        raise JobFailed("ClientError: /execution-parameters holds no numbers.") from None
    if not 0 < megabytes * concurrent <= MOST_MEGABYTES:
        raise JobFailed(
            f"ClientError: MaxPayloadInMB times MaxConcurrentTransforms must be 1 to {MOST_MEGABYTES}."
        )
    wanted = str(chosen("BatchStrategy", USUAL_STRATEGY))
    return Limits(megabytes * MEGABYTE, STRATEGIES.get(wanted, wanted), concurrent)
