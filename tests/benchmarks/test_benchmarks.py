"""The harness, not its figures: both sides are told the same, and ratios are what they say."""

import ast
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import gold, page, peer, report
from benchmarks.jobs import ADAM, SETTINGS, SIZES, repeated

ROOT = Path(__file__).resolve().parents[2]
TRAINING = ("reward", "grpo", "ppo")
# What the peer is given beside its trainer's arguments: a wrapped reward model, another reward, cut prompts. GRPO has
# no limit of prompts there, and none of the task's is as long.
BESIDE = {
    "reward": set(),
    "grpo": {"missing_eos_penalty", "reward_clip", "max_prompt_tokens"},
    "ppo": {"reward_clip", "max_prompt_tokens"},
}


class Watched(Mapping):
    """Settings that remember which of them were asked for."""

    def __init__(self, settings):
        self.settings, self.asked = settings, set()

    def __getitem__(self, name):
        self.asked.add(name)
        return self.settings[name]

    def __iter__(self):
        return iter(self.settings)

    def __len__(self):
        return len(self.settings)


def settings_of(what, size):
    return SETTINGS[what] | SIZES[size].get(what, {})


def config_of(what, size="small"):
    from benchmarks.ours import job_config
    from training.engine.config import METHODS

    job = {"what": what, "settings": settings_of(what, size), "model": "policy", "seed": 3, "threads": 1}
    files = {"train_data": "train"} if what == "reward" else {"prompts": "prompts", "reward_model": "reward"}
    return METHODS[what].model_validate(job_config(job | files))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("what", TRAINING)
def test_our_engine_knows_every_setting_of_a_job_by_that_name(what, size):
    config = config_of(what, size).model_dump()
    for name, value in settings_of(what, size).items():
        assert config[name] == value, name


@pytest.mark.parametrize("what", TRAINING)
def test_the_peer_is_told_every_setting_of_a_job(what):
    watched = Watched(SETTINGS[what])
    getattr(peer, f"{what}_arguments")(watched)
    assert watched.asked == SETTINGS[what].keys() - BESIDE[what]


def test_both_sides_make_as_many_updates_of_the_same_size():
    from training.engine.online import updates_per_iteration

    config, told = config_of("reward"), peer.reward_arguments(SETTINGS["reward"])
    assert told["per_device_train_batch_size"] * told["gradient_accumulation_steps"] == config.batch_size
    config, told = config_of("grpo"), peer.grpo_arguments(SETTINGS["grpo"])
    assert told["max_steps"] == config.steps * updates_per_iteration(config)
    assert told["per_device_train_batch_size"] == config.update_size
    assert told["per_device_train_batch_size"] * told["steps_per_generation"] == config.batch_size
    config, told = config_of("ppo"), peer.ppo_arguments(SETTINGS["ppo"])
    assert told["num_ppo_epochs"] * told["num_mini_batches"] == updates_per_iteration(config)
    assert told["total_episodes"] == config.steps * config.batch_size


def test_both_sides_learn_ppo_at_the_same_rate_in_the_mean():
    # Two iterations of two updates: ours 1, 3/4, 1/2, 1/4 of the first rate, the peer's 1, 1, 1/2, 1/2.
    told = peer.ppo_arguments(SETTINGS["ppo"] | {"steps": 2, "epochs": 1, "learning_rate": 0.6})
    assert told["learning_rate"] * 3.0 == pytest.approx(0.6 * 2.5)


def test_both_sides_have_the_same_adam():
    from training.engine.updates import BETAS, EPSILON

    told = peer.PLAIN
    assert (told["adam_beta1"], told["adam_beta2"], told["adam_epsilon"]) == (*BETAS, EPSILON)
    assert (ADAM["betas"], ADAM["epsilon"]) == (BETAS, EPSILON)


def test_the_peers_process_loads_nothing_of_ours_but_the_job_and_the_meter():
    script = "import sys, benchmarks.peer; print(*(name for name in sys.modules if name.split('.')[0] in {'training', 'benchmarks', 'labeling', 'docs', 'torch'}))"
    outcome = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(outcome.stdout.split()) == {
        "benchmarks",
        "benchmarks.jobs",
        "benchmarks.meter",
        "benchmarks.peer",
    }
    tree = ast.parse((ROOT / "benchmarks" / "peer.py").read_text())
    later = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in later if name.split(".")[0] in {"training", "benchmarks", "labeling", "docs"}}
    assert ours == {"benchmarks.jobs", "benchmarks.meter"}


def figures(units, seconds, cpu_seconds, peak_bytes=0, **outcome):
    return {
        "units": units,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": peak_bytes,
        **outcome,
    }


def test_a_ratio_is_the_median_of_the_pairs_own_ratios():
    # 100 a second beside 50, 300 beside 50, and 50 beside 50 on a machine that was busy: 2, 6 and 1.
    pairs = [
        {"ours": figures(200, 2.0, 1.0), "peer": figures(200, 4.0, 4.0)},
        {"ours": figures(300, 1.0, 1.0), "peer": figures(100, 2.0, 1.0)},
        {"ours": figures(200, 4.0, 2.0), "peer": figures(200, 4.0, 3.0)},
    ]
    assert report.speed_ratio(pairs) == 2.0
    assert report.speed_ratio(pairs, "cpu_seconds") == 3.0  # 4, 3 and 1.5


def test_a_quick_run_ends_with_every_ratio_and_what_both_models_are_worth():
    sides = ("ours", "peer")
    judged = {"gold": 2.0, "kl_nats": 3.0, "accuracy": 0.9}
    work = {"ours": (4.0, 30), "peer": (8.0, 60)}
    pair = {side: figures(80, seconds, seconds, peak, **judged) for side, (seconds, peak) in work.items()}
    memory = {"shared": figures(1, 1.0, 1.0, 25), "peer": figures(1, 1.0, 1.0, 100)}
    speeds = {what: [pair] for what in ("reward", "grpo", "ppo", "sampling")}
    half = figures(80, 2.0, 2.0, 30, gold=1.5, kl_nats=2.5)
    speeds["grpo"] = [{"ours_bf16": half, "peer": pair["peer"]}]
    speeds["ppo"] = [pair | {"ours_bf16": half}]
    found = report.summary({**speeds, "memory": [memory]})
    assert found == {
        "reward_ratio": 2.0,
        "grpo_ratio": 4.0,
        "ppo_ratio": 4.0,
        "bfloat16": ["grpo", "ppo"],
        "ppo_float32_ratio": 2.0,
        "sampling_ratio": 2.0,
        "ppo_memory_ratio": 0.25,
        "reward_accuracy": {side: [0.9] for side in sides},
        "grpo_gold": {"ours_bf16": [1.5], "peer": [2.0]},
        "grpo_kl_nats": {"ours_bf16": [2.5], "peer": [3.0]},
        "ppo_gold": {side: [2.0] for side in sides} | {"ours_bf16": [1.5]},
        "ppo_kl_nats": {side: [3.0] for side in sides} | {"ours_bf16": [2.5]},
    }


def test_a_size_that_was_not_run_again_keeps_its_tables(tmp_path, monkeypatch):
    marks = [mark.format(size) for size in ("small", "large") for mark in report.MARKS]
    (tmp_path / "page.md").write_text(
        "Before.\n{}\nold small\n{}\nBetween.\n{}\nold large\n{}\nAfter.".format(*marks)
    )
    machine = {
        "date": "2026-11-28",
        "commit": "abc",
        "cpu": "x",
        "cores": 2,
        "threads": 1,
        "load_before": 0.1,
    }
    machine["peer"] = {"trl": "1.16.0", "trl for ppo": "1.12.0", "torch": "2", "transformers": "5"}
    pair = {side: figures(80, seconds, seconds, 1e6) for side, seconds in (("ours", 2.0), ("peer", 4.0))}
    run = {"machine": machine, "pairs": 1, "sizes": {"large": {"runs": {"sampling": [pair]}}}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    monkeypatch.setattr(report, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path / "run.json")])
    for _ in range(2):  # the second time changes nothing more
        report.main()
        page = (tmp_path / "page.md").read_text()
        assert "old small" in page and "old large" not in page
        assert "| sampling, useful tokens a second | 40.0 | 20.0 | 2.00 | 2.00 |" in page
        assert page.startswith("Before.") and "\nBetween.\n" in page and page.endswith("\nAfter.")
        assert [page.count(mark) for mark in marks] == [1] * 4


def test_gold_is_compared_by_means_with_the_errors_of_both_sides():
    ours, theirs = (2.0, 3.0, 4.0), (2.0, 2.0, 5.0)
    pairs = [
        {"ours": {"gold": one, "kl_nats": 1.0}, "peer": {"gold": other, "kl_nats": 2.0}}
        for one, other in zip(ours, theirs, strict=True)
    ]
    found = gold.compare(pairs)
    # Standard errors: 1 / sqrt(3), and sqrt(3) / sqrt(3).
    assert found["ours"] == {"gold": [3.0, pytest.approx(3**-0.5)], "kl_nats": [1.0, 0.0]}
    assert found["peer"] == {"gold": [3.0, pytest.approx(1.0)], "kl_nats": [2.0, 0.0]}
    assert found["more_gold"] == {"ours": [0.0, pytest.approx((4 / 3) ** 0.5)]}
    assert gold.table("grpo", found, 3)[-1] == "grpo: ours has +0.00 ± 1.15 of gold beside the peer"


def test_the_side_in_half_precision_differs_in_nothing_else():
    from benchmarks.ours import job_config

    job = {"what": "ppo", "settings": settings_of("ppo", "small"), "model": "policy", "seed": 3, "threads": 1}
    assert job_config(job | {"precision": "bfloat16"}) == job_config(job) | {"precision": "bfloat16"}


def test_a_side_that_fails_ends_the_run_with_its_own_words(tmp_path):
    from benchmarks.bench import run_side

    job = {"what": "knitting", "threads": 1}
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    with pytest.raises(SystemExit, match=r"ours failed at .*job.json:\n(?s:.*)knitting"):
        run_side("ours", path, job)


def test_memory_is_counted_from_where_the_meter_was_made():
    measured = (
        "from benchmarks.meter import Meter; meter = Meter(); meter.start(); during = bytearray(b'x') * 60_000_000; "
        "meter.stop(); print(meter.figures()['peak_bytes'])"
    )
    said = subprocess.check_output([sys.executable, "-c", measured], cwd=ROOT, text=True)
    assert 55e6 < float(said) < 65e6


def test_the_page_is_timed_by_its_median_and_its_slow_twentieth():
    found = page.timings([10.0] * 19 + [200.0])
    assert found["answered"] == 20 and found["key_to_next_ms"]["median"] == 10.0
    assert found["key_to_next_ms"]["p95"] > 100
    with pytest.raises(SystemExit, match="no comparison followed"):
        page.timings([])


def test_the_pages_comparisons_are_the_same_each_time_and_never_equal():
    assert page.comparisons(5) == page.comparisons(5)
    texts = [[one["text"] for one in row["completions"]] for row in page.comparisons(20)]
    assert all(left != right and 29 < len(left.split()) < 300 for left, right in texts)


def test_rows_are_taken_round_and_round():
    assert repeated([{"n": 1}, {"n": 2}], 3) == [{"n": 1}, {"n": 2}, {"n": 1}]
