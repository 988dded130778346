"""Pack the orchestrator's handler for AWS Lambda: build/orchestrator.zip.

    python scripts/lambda_zip.py

The handler needs nothing but boto3, which Lambda's Python carries. The same sources give the
same bytes, so that an unchanged handler is not deployed again.
"""

import argparse
import io
import zipfile

from common import ROOT, run, say, sha256, write_atomically

ZIP = ROOT / "build" / "orchestrator.zip"
MODULES = ("__init__", "contract", "handler", "images", "plan")


def pack() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in MODULES:
            info = zipfile.ZipInfo(f"orchestrator/{name}.py", date_time=(2020, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, (ROOT / "orchestrator" / f"{name}.py").read_bytes())
    return buffer.getvalue()


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    content = pack()
    write_atomically(ZIP, content)
    say(f"lambda: build/orchestrator.zip, {len(content)} bytes, sha256 {sha256(content)[:12]}")
    return 0


if __name__ == "__main__":
    run(main)
