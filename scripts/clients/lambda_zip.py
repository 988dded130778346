"""The orchestrator's handler, packed for AWS Lambda: build/orchestrator.zip.

The handler needs nothing but boto3, which Lambda's Python carries. The same sources give the
same bytes, so that an unchanged handler is not deployed again.
"""

import io
import zipfile
from pathlib import Path

from common import ROOT

ZIP = ROOT / "build" / "orchestrator.zip"


def modules() -> list[Path]:
    """The handler's own modules, and the analyzers, whose sources it ships to the jobs of monitors
    without running them; the sandbox stays at home."""
    package = ROOT / "orchestrator"
    folders = (package, package / "pipelines", package / "monitors")
    return sorted(path for folder in folders for path in folder.glob("*.py"))


def pack() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in modules():
            name = str(path.relative_to(ROOT))
            info = zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())
    return buffer.getvalue()
