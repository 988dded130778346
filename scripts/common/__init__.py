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

# No proxy of the user's stands between us and this machine. Both spellings: one hides the other.
_hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
if _hosts != "*":
    _hosts = ",".join(dict.fromkeys([*filter(None, _hosts.split(",")), "127.0.0.1", "localhost"]))
os.environ |= {"no_proxy": _hosts, "NO_PROXY": _hosts}
