"""What came of a run: one scorer, one sampler and one gold judge for the models of both sides."""

import json
from pathlib import Path

from benchmarks.jobs import read_rows
from training.demo.gold import gold_score
from training.engine.config import Evaluate, Score
from training.engine.evaluate import evaluate, score
from training.engine.settings import Settings
from training.engine.workspace import Workspace

SAMPLES_PER_PROMPT = 4
SEED = 77  # of samples, the same for every policy


def judge_reward_model(model: str, task: dict[str, str], out: Path) -> dict[str, float]:
    """The share of held-out pairs whose chosen answer gets the higher score."""
    pairs = read_rows(task["eval_pairs"])
    rows = [
        {"prompt": pair["prompt"], "completion": pair[side]}
        for pair in pairs
        for side in ("chosen", "rejected")
    ]
    completions = out.with_suffix(".jsonl")
    completions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Score(model=model, completions=str(completions), **_reading())
    workspace = _opened(out, config)
    score(config, workspace)
    workspace.close()
    scores = [row["score"] for row in read_rows(str(out / "scores.jsonl"))]
    right = [chosen > rejected for chosen, rejected in zip(scores[::2], scores[1::2], strict=True)]
    return {"accuracy": sum(right) / len(right)}


def judge_policy(model: str, task: dict[str, str], max_completion_tokens: int, out: Path) -> dict[str, float]:
    """Gold score of its answers to prompts that no training saw, and exact KL to the first policy, in nats."""
    config = Evaluate(
        model=model,
        baseline_model=task["policy"],
        prompts=task["eval_prompts"],
        samples_per_prompt=SAMPLES_PER_PROMPT,
        seed=SEED,
        **_reading() | {"max_completion_tokens": max_completion_tokens},
    )
    workspace = _opened(out, config)
    result = evaluate(config, workspace)
    workspace.close()
    return {
        "gold": _gold(out / "completions.jsonl"),
        "gold_before": _gold(out / "baseline_completions.jsonl"),
        "kl_nats": result["kl_nats"],
        "length": result["length_mean"],
        "eos_rate": result["eos_rate"],
    }


def _gold(completions: Path) -> float:
    rows = read_rows(str(completions))
    return sum(gold_score(row["prompt"][-1]["content"], row["completion"]) for row in rows) / len(rows)


def _opened(out: Path, config: Settings) -> Workspace:
    workspace = Workspace(out)
    workspace.open(config)
    return workspace


def _reading() -> dict[str, int]:
    return {"threads": 1, "max_prompt_tokens": 64, "max_completion_tokens": 80, "micro_batch_tokens": 1024}
