"""What every script shares.

errors.py    the tree of what a user can mend, and how a script ends
params.py    params.yaml, checked
files.py     the pipeline's files by name; reading and writing them
output.py    what is said to people, and what to programs
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # scripts run alone, and some need the orchestrator's package
