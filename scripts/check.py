"""Look at a candidate file: is it HTRU2, and do its moments keep the bound that no sample can break?

python scripts/check.py data/candidates.csv
"""

import argparse
from pathlib import Path

from candidates import files
from candidates.htru2 import PUBLISHED, check, content_hash
from candidates.tables.moments import MOMENTS, below_bound
from common.errors import run
from common.output import print_json, say


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found, rows = files.read(arguments.file)
    for line in found.told():
        say(f"{arguments.file.name}: {line}")
    data = files.labelled(found, rows, arguments.file.name)
    report = {
        "rows": len(data),
        "pulsars": int((data[:, 8] == 1).sum()),
        "content": content_hash(data),
        "published": content_hash(data) == PUBLISHED,
        "rows_below_the_bound": {},
    }
    for what, skewness, kurtosis in MOMENTS:
        ours = below_bound(data, skewness, kurtosis)
        swapped = below_bound(data, kurtosis, skewness)
        report["rows_below_the_bound"][what] = {"our_names": ours, "published_names": swapped}
    if arguments.json:
        print_json(report)
    else:
        print(
            f"{report['rows']} candidates, {report['pulsars']} pulsars, content {report['content'][:16]}"
        )
        print("rows with excess kurtosis below skewness^2 - 2:")
        for what, counts in report["rows_below_the_bound"].items():
            print(f"  {what:8} {counts['our_names']:6} with our names")
            print(f"  {'':8} {counts['published_names']:6} with the published ones")
    check(data, arguments.file.name)
    return 0


if __name__ == "__main__":
    run(main)
