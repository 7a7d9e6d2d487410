"""One job of one side: written to a file, run in a process of its own environment, judged."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.jobs import SETTINGS, SIZES
from benchmarks.judge import judge_policy, judge_reward_model
from benchmarks.report import BF16, MEMORY, rate
from benchmarks.task import LORA_RANK, make_task

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "var" / "bench"  # for what is made
PEER = ROOT / ".venv-bench"
OLD_TRL = PEER / "trl-1.12.0"  # the last release with PPO
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
        }.get(what, (fastest(), "peer") if quick else (*dict.fromkeys(("ours", fastest())), "peer"))
        return [{side: self.measure(what, side, seed) for side in sides} for seed in range(1, pairs + 1)]

    def measure(self, what: str, side: str, seed: int) -> dict[str, Any]:
        """What one side measured, and what its model is worth."""
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
        if {"avx512_bf16", "amx_bf16", "bf16"} & set(of_processor("flags", "Features").split())
        else "ours"
    )


def of_processor(*names: str) -> str:
    """What the kernel says of the first core, by the first of these names that it knows."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines}
    return next((found[name] for name in names if name in found), "")


def tell(line: str) -> None:
    """For whoever waits."""
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)
