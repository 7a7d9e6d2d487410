"""Trains each method on the demo task and draws what it learned, for the method's page.

.venv/bin/python docs/draw_learning_curves.py run WORK --seeds 1 2 3     (about a minute and a half a seed and method)
.venv/bin/python docs/draw_learning_curves.py draw

`run` makes preferences as a rehearsal's simulated annotators would (400 to learn from, 200 on other prompts), and
trains with the demo project's recipe; figures go to docs/learning-curves/, pictures to docs/images/. The gold
score is a reward term of weight 0: it is logged and moves nothing.
"""

import argparse
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from training.demo import recipe  # noqa: E402
from training.demo.gold import gold_preference, gold_score  # noqa: E402

DEMO = HERE.parent / "training" / "demo"
POLICY = str(DEMO / "policy")
PAIRS = {"train": 400, "eval": 200}
GOLD = {"kind": "callable", "path": "docs.draw_learning_curves:gold", "name": "gold", "weight": 0.0}
ONLINE = {"ppo": recipe.PPO, "grpo": recipe.GRPO, "rloo": recipe.RLOO}

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, GAP = 860, 270, 52, 14, 46, 40, 64
COLOURS = ("#0b6e66", "#2f5fc2", "#8d3f9e")
INK, MUTED, RULE, PAPER = "#1f1d1a", "#6b665e", "#e3ded5", "#fffdfa"

# Of each method the panels: a title with its unit, and the metrics drawn there with what they are called.
ONLINE_PANELS = [
    ("Score, deviations or points", {"reward_model": "reward model", "reward_gold": "gold"}),
    ("KL from the first policy, nats", {"exact_kl": ""}),
]
PANELS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "sft": [("Loss, nats per token", {"loss": ""})],
    "reward": [
        ("Loss, nats per preference", {"loss": ""}),
        ("Accuracy on the step's preferences", {"accuracy": ""}),
    ],
    "dpo": [
        ("Accuracy on the step's preferences", {"accuracy": ""}),
        ("Log-ratio, nats per answer", {"chosen_log_ratio": "chosen", "rejected_log_ratio": "rejected"}),
    ],
    **dict.fromkeys(ONLINE, ONLINE_PANELS),
}


def gold(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    return [gold_score(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]


# Training


def run(work: Path, seed: int, methods: Sequence[str]) -> None:
    """One seed of each method; what is there already is not trained again."""
    work.mkdir(parents=True, exist_ok=True)
    train, held_out = split_prompts(work)
    sampling = {**recipe.GENERATE, "model": POLICY, "samples_per_prompt": 4, "seed": seed}
    files = {}
    for name, prompts in (("train", train), ("eval", held_out)):
        engine("generate", work / f"samples-{name}", sampling | {"prompts": str(prompts)})
        files[name] = preferences(work, name, seed)
    data = {"model": POLICY, "train_data": files["train"], "eval_data": files["eval"], "seed": seed}
    judge = {**recipe.REWARD, **data, "prompts": str(train), "log_every_steps": 1}
    save(engine("reward", work / "reward", judge), "reward", seed)
    for method in methods:
        if method == "sft":
            config = {**recipe.COMMON, **data, "epochs": 2, "batch_size": 16, "learning_rate": 3e-4}
        elif method == "dpo":
            config = {**recipe.DPO, **data}
        elif method in ONLINE:
            config = {
                **ONLINE[method],
                "model": POLICY,
                "prompts": str(train),
                "seed": seed,
                "rewards": [GOLD],
            }
            config |= {"reward_model": str(work / "reward" / "model"), "kl_budget_nats": 15.0}
        else:
            continue
        if method in ("sft", "dpo"):
            config["log_every_steps"] = 1
        out = engine(method, work / method, config)
        samples = engine(
            "generate",
            work / f"after-{method}",
            sampling | {"model": str(out / "model"), "prompts": str(held_out)},
        )
        save(out, method, seed, gold_before=mean_gold(work / "samples-eval"), gold_after=mean_gold(samples))


def split_prompts(work: Path) -> tuple[Path, Path]:
    """A fifth of the prompts, by hash, is only asked about at the end."""
    paths = work / "train-prompts.jsonl", work / "eval-prompts.jsonl"
    lines: tuple[list[str], list[str]] = [], []
    for line in (DEMO / "prompts.jsonl").read_text().splitlines():
        share = hashlib.sha256(json.loads(line)["prompt"].encode()).digest()[0] / 256
        lines[share < 0.2].append(line + "\n")
    for path, rows in zip(paths, lines, strict=True):
        path.write_text("".join(rows))
    return paths


def preferences(work: Path, name: str, seed: int) -> str:
    """What simulated annotators say of two samples of a prompt, prompts in turn."""
    rng = random.Random(f"{seed} {name}")
    texts: dict[str, list[str]] = {}
    for line in (work / f"samples-{name}" / "completions.jsonl").read_text().splitlines():
        row = json.loads(line)
        texts.setdefault(row["prompt"][-1]["content"], []).append(row["completion"])
    pairs = [
        (prompt, one, other)
        for prompt, said in texts.items()
        for one, other in (said[:2], said[2:])
        if one != other and one.strip() and other.strip()
    ]
    rng.shuffle(pairs)
    rows = []
    for prompt, one, other in pairs[: PAIRS[name]]:
        answer = gold_preference(prompt, one, other, rng)
        chosen, rejected = (other, one) if answer.preferred == 1 else (one, other)
        tie = answer.preferred is None
        rows.append(
            {
                "prompt": prompt,
                "chosen": chosen,
                "rejected": rejected,
                "tie": tie,
                "strength": answer.strength,
            }
        )
    path = work / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def engine(method: str, out: Path, config: dict[str, Any]) -> Path:
    path = out.with_suffix(".json")
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "training.engine", method, str(path), str(out)]
    code = subprocess.run(command, cwd=HERE.parent).returncode
    if code not in (0, 3):
        raise SystemExit(f"{method} ended with {code}")
    return out


def mean_gold(folder: Path) -> float:
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    scores = [gold_score(row["prompt"][-1]["content"], row["completion"]) for row in rows]
    return round(sum(scores) / len(scores), 3)


def save(out: Path, method: str, seed: int, **figures: float) -> None:
    """Keep what is drawn of a run, and nothing else."""
    wanted = {name for _, metrics in PANELS[method] for name in metrics}
    curves: dict[str, list[list[float]]] = {}
    for line in (out / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["kind"] == "metrics":
            for name in wanted & event["metrics"].keys():
                curves.setdefault(name, []).append([event["step"], round(event["metrics"][name], 4)])
    result = json.loads((out / "result.json").read_text())
    kept = {name: result.get(name) for name in ("accuracy", "kl_nats", "stopped_by", "kept_step")}
    row = {"seed": seed, **figures, **{name: value for name, value in kept.items() if value is not None}}
    path = HERE / "learning-curves" / f"{method}.json"
    path.parent.mkdir(exist_ok=True)
    others = json.loads(path.read_text()) if path.exists() else []
    rows = [*(other for other in others if other["seed"] != seed), row | {"curves": curves}]
    lines = ",\n".join(json.dumps(one) for one in sorted(rows, key=lambda one: one["seed"]))
    path.write_text(f"[\n{lines}\n]\n")


# Drawing


def draw(method: str) -> None:
    """docs/images/curve-METHOD.svg: a panel beside the other, a line for each seed."""
    runs = json.loads((HERE / "learning-curves" / f"{method}.json").read_text())
    panels = PANELS[method]
    width = (WIDTH - LEFT - RIGHT - GAP * (len(panels) - 1)) / len(panels)
    seeds = ", ".join(str(one["seed"]) for one in runs)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{method} on the demo task, seeds {seeds}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
    ]
    for number, (title, metrics) in enumerate(panels):
        parts += panel(title, metrics, runs, LEFT + number * (width + GAP), width)
    (HERE / "images" / f"curve-{method}.svg").write_text("\n".join([*parts, "</svg>", ""]))


def panel(title: str, metrics: dict[str, str], runs: list[dict], left: float, width: float) -> list[str]:
    """Axes, and the lines of every metric: a colour each, the seeds lighter than their mean."""
    points = [point for one in runs for name in metrics for point in one["curves"].get(name, [])]
    most_step = max(step for step, _ in points)
    low, high = min(0.0, *(value for _, value in points)), max(value for _, value in points)
    high += 0.06 * (high - low)

    def place(step: float, value: float) -> tuple[float, float]:
        height = HEIGHT - TOP - BOTTOM
        return left + width * step / most_step, TOP + height * (high - value) / (high - low)

    parts = [f'<text x="{left:.1f}" y="26" font-size="14" font-weight="600" fill="{INK}">{title}</text>']
    for value in ticks(low, high):
        y = place(0, value)[1]
        parts.append(f'<path d="M{left:.1f} {y:.1f}h{width:.1f}" stroke="{RULE}"/>')
        parts.append(
            f'<text x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end" fill="{MUTED}">{value:g}</text>'
        )
    for step, anchor in ((0, "start"), (most_step, "end")):
        label = f"step {step}" if step else "0"
        parts.append(
            f'<text x="{place(step, 0)[0]:.1f}" y="{HEIGHT - 14}" text-anchor="{anchor}" fill="{MUTED}">{label}</text>'
        )
    named = []
    for (name, words), colour in zip(metrics.items(), COLOURS, strict=False):
        series = [one["curves"][name] for one in runs if name in one["curves"]]
        for each in series:
            parts.append(line(each, place, colour, 1.0, 0.35 if len(series) > 1 else 1.0))
        if len(series) > 1:
            parts.append(line(mean_of(series), place, colour, 2.2, 1.0))
        if words:
            named.append((place(*mean_of(series)[-1])[1], words, colour))
    for number, (_, words, colour) in enumerate(sorted(named)):
        y = TOP + 14 + 17 * number
        parts.append(f'<path d="M{left + 10:.1f} {y - 4}h18" stroke="{colour}" stroke-width="2.2"/>')
        parts.append(f'<text x="{left + 34:.1f}" y="{y}" fill="{colour}">{words}</text>')
    return parts


def line(
    points: Sequence[Sequence[float]],
    place: Callable[..., tuple[float, float]],
    colour: str,
    width: float,
    opacity: float,
) -> str:
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    return f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"/>'


def mean_of(series: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Over the seeds, at the steps that all have."""
    by_step: dict[float, list[float]] = {}
    for each in series:
        for step, value in each:
            by_step.setdefault(step, []).append(value)
    return [[step, sum(vs) / len(vs)] for step, vs in sorted(by_step.items()) if len(vs) == len(series)]


def ticks(low: float, high: float) -> list[float]:
    """Four or five round numbers."""
    steps = (size * 10.0**power for power in range(-3, 4) for size in (1, 2, 5))
    step = next(one for one in steps if (high - low) / one <= 5)
    first = int(low / step) - (low < 0)
    return [round(n * step, 6) for n in range(first, int(high / step) + 1) if low <= n * step <= high]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "draw"])
    parser.add_argument("work", nargs="?", type=Path, help="a folder for the runs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--methods", nargs="+", choices=PANELS, default=list(PANELS))
    given = parser.parse_args()
    if given.what == "run":
        for seed in given.seeds:
            run(given.work / f"seed-{seed}", seed, given.methods)
    for method in given.methods:
        draw(method)


if __name__ == "__main__":
    main()
