"""What every script shares.

errors.py    the tree of what a user can mend, and how a script ends
params.py    params.yaml, checked
files.py     the pipeline's files by name; reading and writing them
output.py    what is said to people, and what to programs
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # scripts run alone, and some need the orchestrator's package

# No proxy of the user's stands between us and this machine. Both spellings: either one hides the other.
for _name in ("no_proxy", "NO_PROXY"):
    _hosts = os.environ.get(_name) or os.environ.get(_name.swapcase(), "")
    if _hosts != "*":
        _wanted = (*filter(None, _hosts.split(",")), "127.0.0.1", "localhost")
        os.environ[_name] = ",".join(dict.fromkeys(_wanted))
