"""From what the sides measured to ratios, a table and one line of JSON: arithmetic alone."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

# What a job's work is counted in, and what its result is judged by.
UNITS = {"reward": "pairs", "grpo": "episodes", "ppo": "episodes", "sampling": "useful tokens"}
OUTCOMES = {"reward": ("accuracy",), "grpo": ("gold", "kl_nats"), "ppo": ("gold", "kl_nats")}

Figures = Mapping[str, Any]
Pairs = Sequence[Mapping[str, Figures]]  # of each pair: a side's name to what it measured


def rate(figures: Figures, clock: str = "seconds") -> float:
    """Work a second, of the wall's clock or the processor's."""
    return figures["units"] / figures[clock]


def speed_ratio(pairs: Pairs, clock: str = "seconds") -> float:
    """How many times the peer's work a second we do: the median over the pairs of each pair's own ratio."""
    return median(rate(pair["ours"], clock) / rate(pair["peer"], clock) for pair in pairs)


def memory_ratio(pairs: Pairs, one: str, other: str) -> float:
    """How many times the other's memory one side adds over its libraries, in the same way."""
    return median(pair[one]["peak_bytes"] / pair[other]["peak_bytes"] for pair in pairs)


def middle(pairs: Pairs, side: str, figure: str) -> float:
    """The median of a figure over the pairs."""
    return median(pair[side][figure] for pair in pairs)


def summary(runs: Mapping[str, Pairs]) -> dict[str, Any]:
    """Of one size: each ratio, and of each pair what both sides' models are worth."""
    found: dict[str, Any] = {
        f"{what}_ratio": round(speed_ratio(runs[what]), 2) for what in UNITS if what in runs
    }
    if "memory" in runs:
        found["ppo_memory_ratio"] = round(memory_ratio(runs["memory"], "shared", "peer"), 2)
    for what, names in OUTCOMES.items():
        for name in names if what in runs else ():
            found[f"{what}_{name}"] = {
                side: [round(pair[side][name], 3) for pair in runs[what]] for side in ("ours", "peer")
            }
    if "resume" in runs:
        found["resume_seconds"] = round(middle(runs["resume"], "ours", "seconds"), 2)
    return found


def table(runs: Mapping[str, Pairs]) -> list[str]:
    """Of one size, in Markdown."""
    lines = [
        "| what | ours | peer | ratio | ratio of CPU time | ours: outcome | peer: outcome | ours, MB | peer, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for what, unit in UNITS.items():
        if what not in runs:
            continue
        pairs = runs[what]
        rates = [f"{median(rate(pair[side]) for pair in pairs):,.1f}" for side in ("ours", "peer")]
        outcomes = [outcome(pairs, side, OUTCOMES.get(what, ())) for side in ("ours", "peer")]
        memory = [f"{middle(pairs, side, 'peak_bytes') / 1e6:,.0f}" for side in ("ours", "peer")]
        ratios = [f"{speed_ratio(pairs, clock):.2f}" for clock in ("seconds", "cpu_seconds")]
        lines.append(row(f"{what}, {unit} a second", *rates, *ratios, *outcomes, *memory))
    if "memory" in runs:
        pairs = runs["memory"]
        lines += ["", "| memory of PPO over the libraries | MB | beside the peer |", "|---|---|---|"]
        for side, words in MEMORY.items():
            share = memory_ratio(pairs, side, "peer")
            lines.append(row(words, f"{middle(pairs, side, 'peak_bytes') / 1e6:,.0f}", f"{share:.2f}"))
    if "resume" in runs:
        seconds = [
            f"{middle(runs['resume'], 'ours', name):.2f}" for name in ("seconds", "checkpoint_seconds")
        ]
        lines += ["", f"PPO goes on from a checkpoint {seconds[0]} s after its process began; "]
        lines[-1] += f"{seconds[1]} s of these read the checkpoint."
    return lines


# The sides of the job `memory`.
MEMORY = {
    "shared": "ours, adapters on a shared base",
    "apart": "ours, adapters, four copies",
    "ours": "ours, all weights trained",
    "peer": "peer, all weights trained",
}


def outcome(pairs: Pairs, side: str, names: Sequence[str]) -> str:
    """Medians of what a model is worth, with their names."""
    words = {"kl_nats": "KL"}
    return ", ".join(f"{words.get(name, name)} {middle(pairs, side, name):.2f}" for name in names)


def row(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"
