"""payloads/*.json: what is posted to the orchestrator, with its placeholders filled."""

import json
import os
import string
from pathlib import Path

from common import ROOT
from common.errors import UserError
from common.params import load_params
from orchestrator import pipelines

REALTIME = ROOT / "payloads" / "pulsar-realtime.json"
DATA_QUALITY = ROOT / "payloads" / "pulsar-data-quality.json"
BATCH = ROOT / "payloads" / "pulsar-batch.json"


def load_payload(path: Path, bucket: str) -> dict:
    """A payload with its placeholders filled: ${ASSETS_BUCKET} and ${IMAGE}."""
    try:
        text = Path(os.path.expanduser(path)).read_text()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "ls payloads/") from None
    except ValueError:
        raise UserError(f"{path} is not JSON: it is no text", "ls payloads/") from None
    values = {"ASSETS_BUCKET": bucket, "IMAGE": load_params()["image"]}
    try:
        payload = json.loads(string.Template(text).substitute(values))
    except KeyError as error:
        known = ", ".join("${" + key + "}" for key in values)
        raise UserError(
            f"{path}: unknown placeholder ${{{error.args[0]}}}", f"known: {known}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(payload, dict):
        raise UserError(f"{path} is not a JSON object")
    return payload


def pipeline_of(payload: dict, path: Path) -> str:
    """The stack name that stands for a payload's pipeline: /pipelinestatus takes it as an id."""
    try:
        return pipelines.stack_of(payload["pipeline_type"], payload["model_name"])
    except (KeyError, AttributeError, TypeError):
        known = ", ".join(pipelines.SUFFIXES)
        raise UserError(
            f"{path} must name a model_name and a known pipeline_type", f"one of: {known}"
        ) from None
