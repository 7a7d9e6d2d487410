"""Are both sides' policies worth the same? Many seeds of each, for what their models are worth and nothing else.

    python -m benchmarks.gold --seeds 16

From seed to seed the gold score differs by more than the sides do, so the pairs of a speed run cannot tell. No time is
taken here, so one job runs on each core. Progress goes to stderr; the last line of stdout is one JSON object.
"""

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from math import hypot, sqrt
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.bench import WORK, Bench, fastest
from benchmarks.jobs import SIZES
from benchmarks.report import BF16, Pairs

SIDES = ("ours", BF16, "peer")
FIGURES = ("gold", "kl_nats")


def compare(pairs: Pairs) -> dict[str, Any]:
    """Mean and standard error of each figure on each side, and how much more gold each side of ours has.

    A seed draws other numbers on each side, so the sides' errors are independent.
    """
    found: dict[str, Any] = {
        side: {figure: _mean([pair[side][figure] for pair in pairs]) for figure in FIGURES}
        for side in SIDES
        if side in pairs[0]
    }
    theirs = found["peer"]["gold"]
    more = {
        side: [one["gold"][0] - theirs[0], hypot(one["gold"][1], theirs[1])]
        for side, one in found.items()
        if side != "peer"
    }
    return found | {"more_gold": more}


def _mean(values: Sequence[float]) -> list[float]:
    """With its standard error."""
    return [mean(values), stdev(values) / sqrt(len(values))]


def table(what: str, compared: dict[str, Any], seeds: int) -> list[str]:
    """For people."""
    lines = []
    for side in (side for side in SIDES if side in compared):
        gold, kl = ("{:.2f} ± {:.2f}".format(*compared[side][figure]) for figure in FIGURES)
        lines.append(f"{what}, {seeds} seeds, {side}: gold {gold}, KL {kl} nats")
    for side, (more, error) in compared["more_gold"].items():
        lines.append(f"{what}: {side} has {more:+.2f} ± {error:.2f} of gold beside the peer")
    return lines


def main() -> None:
    """Run, judge, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=16, help="of each side; at least 2")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--only", nargs="+", choices=("grpo", "ppo"), default=["grpo", "ppo"])
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, help="ours in its fastest number format, and peer"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="folder for what is made")
    given = parser.parse_args()
    if given.seeds < 2:
        parser.error("--seeds: one seed has no error")
    sides = {*(given.sides or [fastest()]), "peer"}
    bench = Bench(given.size, given.work.resolve(), threads=1)
    report, seeds = {}, range(1, given.seeds + 1)
    # Models are judged in the process that asks, and torch's settings are a process's.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for what in given.only:
            measured = {
                (seed, side): pool.submit(bench.measure, what, side, seed) for seed in seeds for side in sides
            }
            report[what] = compare(
                [{side: measured[seed, side].result() for side in sides} for seed in seeds]
            )
            print("\n".join(table(what, report[what], given.seeds)), flush=True)
    print(json.dumps({"seeds": given.seeds, **report}))


if __name__ == "__main__":
    main()
