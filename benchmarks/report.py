"""From what the sides measured to ratios, tables and one line of JSON: arithmetic alone.

    python -m benchmarks.report benchmarks/results/full.json

puts the tables of a run into docs/performance.md, each size in the place of its last run.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

# What a job's work is counted in, and what its result is judged by.
UNITS = {"reward": "pairs", "grpo": "episodes", "ppo": "episodes", "sampling": "useful tokens"}
OUTCOMES = {"reward": ("accuracy",), "grpo": ("gold", "kl_nats"), "ppo": ("gold", "kl_nats")}
BF16 = "ours_bf16"  # ours, with products of matrices in bfloat16
# The sides of the job `memory`.
MEMORY = {
    "shared": "ours, adapters on a shared base",
    "apart": "ours, adapters, a copy of the base for each of the four networks",
    "ours": "ours, all weights trained",
    "peer": "peer, all weights trained",
}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
MARKS = "<!-- last run of {} -->", "<!-- /last run of {} -->"

Figures = Mapping[str, Any]
Pairs = Sequence[Mapping[str, Figures]]  # of each pair: a side's name to what it measured


def rate(figures: Figures, clock: str = "seconds") -> float:
    """Work a second, of the wall's clock or the processor's."""
    return figures["units"] / figures[clock]


def speed_ratio(pairs: Pairs, clock: str = "seconds", side: str = "ours") -> float:
    """How many times the peer's work a second we do: the median over the pairs of each pair's own ratio."""
    return median(rate(pair[side], clock) / rate(pair["peer"], clock) for pair in pairs)


def memory_ratio(pairs: Pairs, one: str, other: str) -> float:
    """How many times the other's memory one side adds over its libraries, in the same way."""
    return median(pair[one]["peak_bytes"] / pair[other]["peak_bytes"] for pair in pairs)


def middle(pairs: Pairs, side: str, figure: str) -> float:
    """The median of a figure over the pairs."""
    return median(pair[side][figure] for pair in pairs)


def summary(runs: Mapping[str, Pairs]) -> dict[str, Any]:
    """Of one size: each ratio, and of each pair what both sides' models are worth.

    A ratio is that of ours in bfloat16 where it ran so; the one in float32 then stands beside it.
    """
    speeds = {what: runs[what] for what in UNITS if what in runs}
    halves = [what for what, pairs in speeds.items() if BF16 in pairs[0]]
    found: dict[str, Any] = {
        f"{what}_ratio": round(speed_ratio(pairs, side=BF16 if what in halves else "ours"), 2)
        for what, pairs in speeds.items()
    }
    found["bfloat16"] = halves
    found |= {
        f"{what}_float32_ratio": round(speed_ratio(runs[what]), 2)
        for what in halves
        if "ours" in runs[what][0]
    }
    if "memory" in runs:
        found["ppo_memory_ratio"] = round(memory_ratio(runs["memory"], "shared", "peer"), 2)
    for what, names in OUTCOMES.items():
        for name in names if what in runs else ():
            found[f"{what}_{name}"] = {
                side: [round(pair[side][name], 3) for pair in runs[what]]
                for side in ("ours", BF16, "peer")
                if side in runs[what][0]
            }
    if "resume" in runs:
        found["resume_seconds"] = round(middle(runs["resume"], "ours", "seconds"), 2)
    return found


def tables(runs: Mapping[str, Pairs]) -> list[str]:
    """Of one size, in Markdown."""
    lines = [
        "| what | ours | peer | ratio | of CPU time | ours: outcome | peer: outcome | ours, MB | peer, MB |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            _speed_row(what, runs[what], side)
            for what in UNITS
            for side in ("ours", BF16)
            if what in runs and side in runs[what][0]
        ),
    ]
    if "memory" in runs:
        pairs = runs["memory"]
        lines += ["", "| memory of PPO over the libraries | MB | beside the peer |", "|---|---|---|"]
        lines += [_memory_row(side, pairs) for side in MEMORY if side in pairs[0]]
    if "resume" in runs:
        seconds, read = (middle(runs["resume"], "ours", f"{name}seconds") for name in ("", "checkpoint_"))
        lines += ["", f"PPO goes on from a checkpoint {seconds:.1f} s after its process was started;"]
        lines += [f"{read:.2f} s of these read the checkpoint."]
    return lines


def _speed_row(what: str, pairs: Pairs, side: str) -> str:
    name = f"{what}, {UNITS[what]} a second{', ours in bfloat16' if side == BF16 else ''}"
    sides = (side, "peer")
    rates = [f"{median(rate(pair[one]) for pair in pairs):,.1f}" for one in sides]
    ratios = [f"{speed_ratio(pairs, clock, side):.2f}" for clock in ("seconds", "cpu_seconds")]
    outcomes = [_outcome(pairs, one, OUTCOMES.get(what, ())) for one in sides]
    return _row(name, *rates, *ratios, *outcomes, *_megabytes(pairs, sides))


def _memory_row(side: str, pairs: Pairs) -> str:
    share = memory_ratio(pairs, side, "peer")
    return _row(MEMORY[side], *_megabytes(pairs, (side,)), f"{share:.2f}")


def _outcome(pairs: Pairs, side: str, names: Sequence[str]) -> str:
    words = {"kl_nats": "KL"}
    return ", ".join(f"{words.get(name, name)} {middle(pairs, side, name):.2f}" for name in names)


def _megabytes(pairs: Pairs, sides: Sequence[str]) -> list[str]:
    return [f"{middle(pairs, side, 'peak_bytes') / 1e6:,.0f}" for side in sides]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def full_report(report: Mapping[str, Any]) -> list[str]:
    """All sizes of a run, and what they ran on."""
    return [line for size in report["sizes"] for line in (*of_size(report, size), "")]


def of_size(report: Mapping[str, Any], size: str) -> list[str]:
    """One size of a run, and what it ran on."""
    machine = report["machine"]
    return [
        f"**{size}**",
        "",
        f"{machine['date']}, commit {machine['commit']}, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['threads']} threads a side, load before {machine['load_before']}; medians of {report['pairs']} pairs.",
        f"Peer: TRL {machine['peer']['trl']} ({machine['peer']['trl for ppo']} for PPO); torch {machine['peer']['torch']} "
        f"and transformers {machine['peer']['transformers']} on both sides.",
        "",
        *tables(report["sizes"][size]["runs"]),
    ]


def main() -> None:
    """Put a run's tables into the page."""
    report = json.loads(Path(sys.argv[1]).read_text())
    text = PAGE.read_text()
    for size in report["sizes"]:
        begin, end = (mark.format(size) for mark in MARKS)
        before, _, rest = text.partition(begin)
        text = "\n".join([before + begin, *of_size(report, size), end + rest.partition(end)[2]])
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
