"""Runs us and the peer in turn on the same jobs, and prints the ratios: docs/performance.md.

    python -m benchmarks --quick
    python -m benchmarks --pairs 3 --sizes small large

Progress goes to stderr; the last line of stdout is one JSON object.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.bench import PEER, ROOT, WORK, Bench, of_processor, tell
from benchmarks.jobs import SIZES
from benchmarks.report import full_report, summary

RESULTS = ROOT / "benchmarks" / "results"
JOBS = ("reward", "grpo", "ppo", "memory", "sampling", "resume")


def describe_machine(threads: int) -> dict[str, Any]:
    """Where and with what the figures were taken."""
    script = "import json, torch, transformers, trl; print(json.dumps({'trl': trl.__version__, 'torch': torch.__version__, 'transformers': transformers.__version__}))"
    ours = script.replace(", trl;", ";").replace("'trl': trl.__version__, ", "")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "cpu": of_processor("model name", "CPU part"),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "threads": threads,
        "python": platform.python_version(),
        "ours": _versions(sys.executable, ours),
        "peer": _versions(PEER / "bin" / "python", script) | {"trl for ppo": "1.12.0"},
    }


def _versions(python: str | Path, script: str) -> dict[str, str]:
    outcome = subprocess.run([str(python), "-c", script], capture_output=True, text=True)
    if outcome.returncode:
        raise SystemExit(
            f"{python} cannot load what the benchmarks need; see `make bench`:\n{outcome.stderr[-2000:]}"
        )
    return json.loads(outcome.stdout)


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="the small model once, ours in one number format, without resume"
    )
    parser.add_argument("--pairs", type=int, help="times each side runs; 3, and 1 where quick")
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, help="models; small and large, and small where quick"
    )
    parser.add_argument("--only", nargs="+", choices=JOBS, help="jobs; all")
    parser.add_argument("--threads", type=int, default=1, help="of either side")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for what is made")
    parser.add_argument(
        "--out", type=Path, help="file for the JSON; benchmarks/results/quick.json or full.json"
    )
    given = parser.parse_args()
    pairs = given.pairs or (1 if given.quick else 3)
    sizes = given.sizes or (["small"] if given.quick else list(SIZES))
    jobs = given.only or [job for job in JOBS if not (given.quick and job == "resume")]

    began = time.monotonic()
    report: dict[str, Any] = {"machine": describe_machine(given.threads), "pairs": pairs, "sizes": {}}
    path = given.out or RESULTS / ("quick.json" if given.quick else "full.json")
    for size in sizes:
        bench, runs = Bench(size, given.work.resolve(), given.threads), {}
        for job in jobs:
            runs[job] = bench.run(job, pairs, given.quick)
            report["sizes"][size] = {"summary": summary(runs), "runs": runs}
            write_results(report, path)  # A job that fails after hours takes nothing with it.
    print("\n".join(full_report(report)))
    tell(f"{time.monotonic() - began:.0f} seconds")
    found = {size: one["summary"] for size, one in report["sizes"].items()}
    print(json.dumps(found[sizes[0]] if len(sizes) == 1 else found))


def write_results(report: dict[str, Any], path: Path) -> None:
    """Every figure; folders of this machine are nobody's business."""
    for one in report["sizes"].values():
        for pair in (pair for pairs in one["runs"].values() for pair in pairs):
            for figures in pair.values():
                figures.pop("model", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
