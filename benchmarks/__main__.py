"""Runs us and the peer in turn on the same jobs, and prints the ratios: docs/performance.md.

    python -m benchmarks --quick
    python -m benchmarks --pairs 3 --sizes small large

Progress goes to stderr; the last line of stdout is one JSON object.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.jobs import SETTINGS, SIZES
from benchmarks.judge import judge_policy, judge_reward_model
from benchmarks.report import BF16, MEMORY, full_report, rate, summary
from benchmarks.task import LORA_RANK, make_task

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".venv-bench"
OLD_TRL = PEER / "trl-1.12.0"  # the last release with PPO
RESULTS = ROOT / "benchmarks" / "results"
JOBS = ("reward", "grpo", "ppo", "memory", "sampling", "resume")
QUICK_MEMORY = ("shared", "peer")
FEW_STEPS = 2  # iterations where memory or resuming is measured; the peak is there after the first
JOB_SECONDS = 3600.0


class Bench:
    """The jobs of one size."""

    def __init__(self, size: str, work: Path, threads: int) -> None:
        self.size, self.threads = size, threads
        self.work = work / size
        tell(f"{size}: the task in {self.work}")
        self.task = make_task(self.work, size)

    def run(self, what: str, pairs: int, quick: bool) -> list[dict[str, dict[str, Any]]]:
        """The sides of a job in turn, so many times over; of each time what each side measured."""
        sides: Sequence[str] = {
            "memory": QUICK_MEMORY if quick else tuple(MEMORY),
            "resume": ("ours",),
            "sampling": ("ours", "peer"),
        }.get(what, (fastest(), "peer") if quick else (*dict.fromkeys(("ours", fastest())), "peer"))
        return [{side: self._side(what, side, seed) for side in sides} for seed in range(1, pairs + 1)]

    def _side(self, what: str, side: str, seed: int) -> dict[str, Any]:
        out = self.work / "runs" / f"{what}-{side}-{seed}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        job = self.job(what, side, seed, out)
        path = out.with_suffix(".json")
        path.write_text(json.dumps(job, indent=1))
        if what == "resume":
            run_side("ours", path, job)  # It stops itself, as if it had been asked to.
            job |= {"stop_after": 0, "launched": time.monotonic()}
            path.write_text(json.dumps(job, indent=1))
        figures = run_side("peer" if side == "peer" else "ours", path, job)
        figures |= self._judge(what, figures, out)
        shown = {name: round(value, 3) for name, value in figures.items() if isinstance(value, float)}
        speed = f"{rate(figures):.1f} a second, " if "units" in figures else ""
        tell(f"{self.size} {what} {side} {seed}: {speed}{json.dumps(shown)}")
        return figures

    def job(self, what: str, side: str, seed: int, out: Path) -> dict[str, Any]:
        """The file that a side is started with; beside the folder to write to, it is the same for both."""
        task = self.task
        method = {"memory": "ppo", "resume": "ppo"}.get(what, what)
        settings = SETTINGS[method] | SIZES[self.size].get(method, {})
        job: dict[str, Any] = {"what": method, "model": task["policy"], "seed": seed, "threads": self.threads}
        if method == "reward":
            job["train_data"] = task["train_pairs"]
        else:
            job["prompts"] = task["train_prompts"]
        if method in ("grpo", "ppo"):
            job["reward_model"] = task["reward"]
        if what in ("memory", "resume"):
            settings = settings | {"steps": FEW_STEPS}
        if side in ("shared", "apart"):
            job["adapters"] = {"lora_rank": LORA_RANK, "share_base": side == "shared"}
            job["reward_model"] = task["reward_adapter"]
        if side == BF16:
            job["precision"] = "bfloat16"
        if what == "resume":
            job |= {"what": "resume", "stop_after": FEW_STEPS - 1}
        return job | {"settings": settings, "out": str(out)}

    def _judge(self, what: str, figures: dict[str, Any], out: Path) -> dict[str, float]:
        judged = out.with_name(f"{out.name}-judged")
        shutil.rmtree(judged, ignore_errors=True)
        if what == "reward":
            return judge_reward_model(figures["model"], self.task, judged)
        if what in ("grpo", "ppo"):
            limit = SETTINGS[what]["max_completion_tokens"]
            return judge_policy(figures["model"], self.task, limit, judged)
        return {}


def run_side(side: str, path: Path, job: dict[str, Any]) -> dict[str, Any]:
    """A side's process, to its end; what it measured. Ends the run with its last words where it failed."""
    python = PEER / "bin" / "python" if side == "peer" else sys.executable
    threads = str(job["threads"])
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTHONPATH": str(OLD_TRL) if side == "peer" and job["what"] == "ppo" else "",
    }
    command = [str(python), "-m", f"benchmarks.{side}", str(path)]
    outcome = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=JOB_SECONDS
    )
    if outcome.returncode:
        raise SystemExit(f"{side} failed at {path}:\n{outcome.stderr[-4000:]}")
    return json.loads(outcome.stdout.splitlines()[-1])


def fastest() -> str:
    """Our side in the number format that this processor multiplies fastest; the peer is fastest in float32."""
    return (
        BF16
        if {"avx512_bf16", "amx_bf16", "bf16"} & set(_of_processor("flags", "Features").split())
        else "ours"
    )


def _of_processor(*names: str) -> str:
    """What the kernel says of the first core, by the first of these names that it knows."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines}
    return next((found[name] for name in names if name in found), "")


def describe_machine(threads: int) -> dict[str, Any]:
    """Where and with what the figures were taken."""
    script = "import json, torch, transformers, trl; print(json.dumps({'trl': trl.__version__, 'torch': torch.__version__, 'transformers': transformers.__version__}))"
    ours = script.replace(", trl;", ";").replace("'trl': trl.__version__, ", "")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "cpu": _of_processor("model name", "CPU part"),
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


def tell(line: str) -> None:
    """For whoever waits."""
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


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
    parser.add_argument("--work", type=Path, default=ROOT / "var" / "bench", help="folder for what is made")
    parser.add_argument(
        "--out", type=Path, help="file for the JSON; benchmarks/results/quick.json or full.json"
    )
    given = parser.parse_args()
    pairs = given.pairs or (1 if given.quick else 3)
    sizes = given.sizes or (["small"] if given.quick else list(SIZES))
    jobs = given.only or [job for job in JOBS if not (given.quick and job == "resume")]

    began = time.monotonic()
    report: dict[str, Any] = {"machine": describe_machine(given.threads), "pairs": pairs, "sizes": {}}
    for size in sizes:
        bench = Bench(size, given.work.resolve(), given.threads)
        runs = {job: bench.run(job, pairs, given.quick) for job in jobs}
        report["sizes"][size] = {"summary": summary(runs), "runs": runs}
    print("\n".join(full_report(report)))
    tell(f"{time.monotonic() - began:.0f} seconds")
    write_results(report, given.out or RESULTS / ("quick.json" if given.quick else "full.json"))
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
