"""``python -m tests.benchmarks.commands``: how long every verb takes on small inputs.

Each is a process of its own, as a user starts it, on bundled networks and scikit-learn's digits. A
verb fails where it takes more than ``SLACK`` times the seconds that are stated for it: only gross
regressions are found, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.command import parser_of, run_module
from transfer_metrics.__main__ import VERBS
from transfer_metrics.cli.console import print_table, say
from transfer_metrics.cli.options import add_output

SLACK = 20.0
_MODEL, _TASK = "zoo:cnn-mnist", "sklearn:digits?examples=100"
# Options and seconds of each verb; later ones read what earlier ones wrote.
COMMANDS: dict[str, tuple[str, float]] = {
    "rank": (f"--models zoo:cnn-mnist,zoo:resnet-usps --task {_TASK} --out ranked", 5.0),
    "transfer": (f"--models {_MODEL} --task {_TASK} --out transferred", 7.0),
    "layers": (f"--model {_MODEL} --task {_TASK}", 3.0),
    "extract": (f"--model {_MODEL} --task {_TASK} --out features", 3.0),
    "score": ("--features rows.npz", 2.5),
    "select": (f"--model {_MODEL} --task {_TASK} --by logme --k 2 --out chosen.json", 3.5),
    "train": (f"--model {_MODEL} --task {_TASK} --head linear_probe --out head", 4.0),
    "predict": ("--head head sklearn:digits", 3.5),
    "export": ("--head head --format torch-export --out net.pt2", 6.0),
    "compare": (f"--models {_MODEL} --task {_TASK} --heads linear_probe --out compared", 4.0),
    "report": ("ranked/scores.jsonl --out report.html", 3.5),
    "list": ("models zoo:*", 1.0),
    "cache": ("", 2.5),
    "benchmark": ("published transrate-layers --resamples 20", 5.0),
}


def measure(folder: Path) -> list[dict[str, object]]:
    """A record per verb: seconds, those that are stated, and its exit status."""
    made = "import numpy as np; np.savez('rows.npz', X=np.eye(60, 8), y=np.arange(60) % 3)"
    subprocess.run([sys.executable, "-c", made], cwd=folder, check=True)
    paths = filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])
    environment = {
        **os.environ,
        "TRANSFER_METRICS_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    records: list[dict[str, object]] = []
    for verb, (options, stated) in COMMANDS.items():
        command = [sys.executable, "-m", "transfer_metrics", verb, *options.split(), "--quiet"]
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
        told = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        records.append(
            {"verb": verb, "seconds": round(seconds, 2), "stated": stated,
             "status": done.returncode, "options": options, "error": "".join(told)}
        )  # fmt: skip
    return records


def table(records: list[dict[str, object]]) -> str:
    """The records as lines."""
    lines = [f"{'verb':<10} {'seconds':>8} {'stated':>7}  options"]
    lines += [
        f"{r['verb']:<10} {r['seconds']:>8} {r['stated']:>7}  {r['options']}" for r in records
    ]
    return "\n".join(lines)


def faults(records: list[dict[str, object]]) -> list[str]:
    """What is wrong: a verb that failed, that takes far too long, or that is not measured."""
    found = [f"{r['verb']} ended with {r['status']}: {r['error']}" for r in records if r["status"]]
    found += [
        f"{r['verb']} took {r['seconds']} s, more than {SLACK:g} times the {r['stated']} s stated"
        for r in records
        if float(str(r["seconds"])) > SLACK * float(str(r["stated"]))
    ]
    missing = set(VERBS) - {str(r["verb"]) for r in records}
    return found + [f"{verb} is not measured" for verb in sorted(missing)]


def _run(args: argparse.Namespace) -> int:
    with TemporaryDirectory(prefix="transfer-metrics-") as folder:
        records = measure(Path(folder))
    print_table(records, args, table(records))
    wrong = faults(records)
    for text in wrong:
        say(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = parser_of("commands", "how long every verb takes on small inputs", _run)
    add_output(parser)
    run_module(parser)
