"""One job of a monitor: a baseline, or a check of what was captured since the last one.

Everything comes from environment variables, under SageMaker's names where it has them:

    analysis_type          DATA_QUALITY, MODEL_QUALITY, MODEL_BIAS or MODEL_EXPLAINABILITY
    job                    baseline or monitor
    output_path            a local folder: a baseline's files go there, a run's to yyyy/mm/dd/hh below
    dataset_source         baseline: a local CSV file, or the folder of one;
                           monitor: s3://bucket/prefix of the captures
    baseline_constraints, baseline_statistics    monitor: local files, or their folders
    sagemaker_endpoint_name, sagemaker_monitoring_schedule_name
    results                monitor: s3://bucket/prefix/<endpoint>/<schedule>, what earlier runs wrote
    scheduled_time         ISO 8601; absent: now
    max_window_days        how far a run goes back at most; absent: 7
    start_time_offset, end_time_offset           as -PT7H: see window.py
    ground_truth           s3://bucket/prefix of what was true, for MODEL_QUALITY and MODEL_BIAS
    publish_cloudwatch_metrics                   Disabled: none are written
    exit_message_path, metrics_path              absent: where SageMaker reads them

and what a type needs beside (its module says what). What a user can put right ends the job with exit
code 1 and a sentence in the exit message.
"""

import csv
import importlib
import io
import json
import os
import sys
import traceback
from datetime import datetime, timezone
from pathlib import Path

import boto3
import pandas as pd
from botocore.exceptions import BotoCoreError, ClientError

from . import captured, merge, window
from .frame import KEYS, Refused, needed, one_of

ANALYZERS = {
    "DATA_QUALITY": "data_quality",
    "MODEL_QUALITY": "model_quality",
    "MODEL_BIAS": "bias",
    "MODEL_EXPLAINABILITY": "explainability",
}
MERGED = ("MODEL_QUALITY", "MODEL_BIAS")  # those that compare with what was true
MESSAGE, METRICS = "/opt/ml/output/message", "/opt/ml/output/metrics/cloudwatch"
SUCCESS = "Job completed successfully with"
FILES = "Captured records that hold a file (" + captured.FILE + "), not rows, and are left out: {}"


def main():
    """Run the job that the environment describes; the exit code."""
    settings = dict(os.environ)
    try:
        message, code = run(settings), 0
    except Refused as error:
        message, code = str(error), 1
    except (ClientError, BotoCoreError) as error:
        message, code = f"S3 refused: {error}", 1
    except Exception as error:  # ours to mend; the log has the rest
        traceback.print_exc()
        message, code = f"the analysis failed: {error!r}; its log has the traceback", 1
    print(message, file=sys.stderr if code else sys.stdout)
    write(Path(settings.get("exit_message_path") or MESSAGE), message)
    return code


def run(settings):
    """The exit message of a job; raises Refused."""
    kind = one_of(settings, "analysis_type", list(ANALYZERS))
    job = one_of(settings, "job", ["baseline", "monitor"])
    output = Path(needed(settings, "output_path"))
    analyzer = importlib.import_module("." + ANALYZERS[kind], __package__)
    if job == "baseline":
        table = baseline_table(Path(needed(settings, "dataset_source")))
        write_all(output, analyzer.baseline(table, settings))
        return f"Completed: {SUCCESS} no violations."
    return monitor(kind, analyzer, output, settings)


def monitor(kind, analyzer, output, settings):
    """Check what was captured; the exit message. Raises Refused."""
    files = baseline_files(settings)
    s3 = boto3.client("s3")
    period = window.choose(s3, settings)
    read = merged_table if kind in MERGED else captured_table
    table, answers, without_rows = read(s3, settings, period, output)
    table = named(table, answers, files)
    settings = dict(settings, answer_columns=str(answers))
    checked = analyzer.check(table, files, settings)
    times = {
        "start_time": window.text(period.start), "end_time": window.text(period.end),
        "records": len(table), "files": without_rows, "listed_time": window.text(period.listed),
    }  # fmt: skip
    if without_rows:
        checked.files["report.md"] += f"\n{FILES.format(without_rows)}.\n"
    folder = output / period.scheduled.strftime("%Y/%m/%d/%H")
    write_all(folder, dict(checked.files, **{"window.json": times}))
    if settings.get("publish_cloudwatch_metrics") != "Disabled":
        write_metrics(checked.metrics, settings, window.text(period.scheduled))
    count = len(checked.violations)
    if count:
        return f"CompletedWithViolations: {SUCCESS} {count} violations."
    return f"Completed: {SUCCESS} no violations."


# -- what comes in --------------------------------------------------------------------


def captured_table(s3, settings, period, output, merger=None):
    """The rows of a window, columns by position; how many of these are the answer's; and how many records
    hold a file in the place of rows."""
    reader = captured.Reader(window.text(period.end))
    for name, body, since in window.captures(s3, settings, period):
        reader.add(name, body, since)
        if merger:
            merger.add(name, body, since)
    table = reader.table()
    if not len(table):
        raise no_data(reader.files)
    return table, reader.answers, reader.files


def merged_table(s3, settings, period, output):
    """The same rows with what was true, where that is known; the merged records are written, too."""
    collected = merge.objects(s3, settings, period.start, datetime.now(timezone.utc))
    truth = merge.truth(collected)
    place = output / "merge" / needed(settings, "sagemaker_endpoint_name")
    merger = merge.Merge(truth, place, window.text(period.end))
    table, answers, files = captured_table(s3, settings, period, output, merger)
    print(merger.close(), flush=True)
    table = merge.labelled(table, truth)
    if not len(table):
        raise no_data(files)
    return table, answers, files


def no_data(files):
    """A Refused for a window without rows, or without rows whose truth is known."""
    return Refused("Job inputs had no data" + (f". {FILES.format(files)}" if files else ""))


def named(table, answers, files):
    """The table under its baseline's names, where a baseline has columns."""
    known = [entry["name"] for entry in files.get("statistics.json", {}).get("features", [])]
    if known:
        width = len([name for name in table.columns if name not in KEYS])
        table.columns = captured.names(answers, width, known) + list(table.columns[width:])
    return table


def baseline_files(settings):
    """The documents of a baseline by file name, its constraints always; raises Refused."""
    found = {}
    for name in ("baseline_constraints", "baseline_statistics"):
        if name == "baseline_constraints" or settings.get(name):
            path = the_file(Path(needed(settings, name)), name, "*.json")
            found[path.name] = document(path)
    return found


def document(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refused(f"{path} is not JSON: {error}") from None


def the_file(path, name, pattern):
    """A file, or the only one of a folder; raises Refused."""
    if path.is_file():
        return path
    found = sorted(path.rglob(pattern)) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(f"{name}: {path} holds {len(found)} files {pattern}, not one")
    raise Refused(f"{name}: there is no file {pattern} at {path}")


def baseline_table(place):
    """The table of a baseline's CSV, whose first line may be its header; raises Refused."""
    path = the_file(place, "dataset_source", "*.csv")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"{path.name} is not UTF-8 text: {error.reason}") from None
    lines = io.StringIO(text, newline=None)
    first = next(csv.reader([lines.readline()]), [])
    if not first:
        raise Refused(f"{path.name} is empty")
    has_header = not any(map(captured.is_number, first))
    names = first if has_header else [f"_c{i}" for i in range(len(first))]
    if len(set(names)) < len(names):
        raise Refused("{} names a column twice: {}".format(path.name, ", ".join(names)))
    widths(path.name, text, len(names))
    if not has_header:
        lines.seek(0)
    body = lines.read()
    if not body.strip():
        raise Refused(f"{path.name} has a header and no rows")
    table = pd.DataFrame(dict(zip(names, captured.columns_of(body.rstrip("\n"), len(names)))))
    for name in names:
        numeric(path.name, table[name], 1 + has_header)
    return table


def widths(name, text, wanted):
    """Raise Refused where a row has another width than the first."""
    for number, row in enumerate(csv.reader(io.StringIO(text.rstrip())), start=1):
        if len(row) != wanted:
            raise Refused(f"{name}, row {number} has {len(row)} columns, not {wanted} as the first")


def numeric(name, column, first):
    """Raise Refused where a text stands among numbers."""
    if column.dtype.kind in "iuf":
        return
    there = column[column.notna()]
    numbers = pd.to_numeric(there, errors="coerce").notna()
    if 2 * numbers.sum() >= len(there) > 0 and not numbers.all():
        row = there.index[~numbers.to_numpy()][0]
        raise Refused(
            f"{name}, row {row + first}, column {column.name} is {str(there[row])!r}, and the others "
            "are numbers"
        )


# -- what goes out --------------------------------------------------------------------


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_all(folder, files):
    """Write documents as JSON, texts as they are."""
    for name, content in files.items():
        if not isinstance(content, str):
            content = json.dumps(content, indent=1, allow_nan=False) + "\n"
        write(folder / name, content)


def write_metrics(metrics, settings, when):
    """The file that a container's metrics are read from: one JSON document a line."""
    dimensions = [
        {"Name": "Endpoint", "Value": needed(settings, "sagemaker_endpoint_name")},
        {"Name": "MonitoringSchedule",
         "Value": needed(settings, "sagemaker_monitoring_schedule_name")},
    ]  # fmt: skip
    lines = [
        dict({"Unit": "None"}, **dict(metric, Timestamp=when,
             Dimensions=dimensions + metric.get("Dimensions", [])))
        for metric in metrics
    ]  # fmt: skip
    path = Path(settings.get("metrics_path") or METRICS)
    write(path, "".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    sys.exit(main())
