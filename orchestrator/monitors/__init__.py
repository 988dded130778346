"""The analyzers of the monitors: what a processing job runs, at home and on AWS.

They are shipped as one file, `archive()`, that any Python from 3.8 on runs: `python3 monitors.zip`.
"""

import io
import zipfile
from pathlib import Path

MAIN = "import sys\nfrom monitors.__main__ import main\nsys.exit(main())\n"
EPOCH = (1980, 1, 1, 0, 0, 0)  # equal sources are equal bytes


def archive():
    """This package as a zipapp, in bytes."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(Path(__file__).parent.glob("*.py")):
            packed.writestr(zipfile.ZipInfo("monitors/" + path.name, EPOCH), path.read_bytes())
        packed.writestr(zipfile.ZipInfo("__main__.py", EPOCH), MAIN)
    return written.getvalue()
