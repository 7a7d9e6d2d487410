"""Prompts of earlier rounds in ppo, grpo and rloo: how many each batch takes, in which order, and what is logged."""

from collections import Counter

import pytest

from tests.engine.conftest import LIMITS, TOY, write_rows
from tests.engine.test_groups import GROUPED
from tests.engine.test_training import PPO, NoWorkspace, players_of
from training.engine.config import Grpo
from training.engine.online import Prompts, batch_prompts, collect
from training.engine.records import PromptRecord

SETTINGS = {"ppo": PPO, "grpo": GROUPED, "rloo": GROUPED}


def numbered(count, name):
    return [PromptRecord(prompt=[{"role": "user", "content": f"{name} {number}"}]) for number in range(count)]


def config_of(**changes):
    settings = {"batch_size": 16, "samples_per_prompt": 4, "minibatch_size": 16}
    return Grpo(model="-", prompts="-", rewards=[TOY], **LIMITS | settings | changes)


def walked(prompts, steps, config):
    """The texts of each step's batch."""
    return [[prompt.text for prompt in batch_prompts(prompts, step, config)] for step in range(steps)]


@pytest.mark.parametrize(
    ("share", "counts"),
    [
        (0.25, [1, 1, 1, 1, 1]),  # of 4 prompts
        (0.3, [1, 1, 2, 1, 1]),  # 1.2, 2.4, 3.6, 4.8, 6 after each step, to the nearest
        (0.9, [4, 3, 4, 3, 4]),  # 3.6, 7.2, 10.8, 14.4, 18
        (0.1, [0, 1, 0, 1, 0]),  # 0.4, 0.8, 1.2, 1.6, 2
    ],
)
def test_the_share_is_kept_over_time_in_whole_groups(share, counts):
    config = config_of(replay_prompts="-", replay_share=share)
    batches = walked(Prompts(numbered(7, "new"), numbered(5, "old")), 5, config)
    for batch, count in zip(batches, counts, strict=True):
        assert len(batch) == 16
        groups = [batch[begin : begin + 4] for begin in range(0, 16, 4)]
        assert all(len(set(group)) == 1 for group in groups)
        assert sum("old" in group[0] for group in groups) == count


def test_both_files_are_walked_through_without_leaving_any_out():
    config = config_of(replay_prompts="-", replay_share=0.3)
    prompts = Prompts(numbered(7, "new"), numbered(4, "old"))
    batches = walked(prompts, 10, config)  # 28 fresh prompts and 12 earlier ones
    texts = [text for batch in batches for text in batch[::4]]
    counts = Counter(texts)
    assert {counts[prompt.text] for prompt in prompts.fresh} == {4}
    assert {counts[prompt.text] for prompt in prompts.earlier} == {3}
    old = [text for text in texts if "old" in text]
    assert sorted(old[:4]) == sorted(old[4:8]) and old[:4] != old[4:8]
    # Each step stands on its own, so that a run goes on with what would have come.
    assert [prompt.text for prompt in batch_prompts(prompts, 6, config)] == batches[6]
    other = config.model_copy(update={"seed": 1})
    fifty = Prompts(numbered(50, "new"), numbered(50, "old"))  # No two orders of fifty begin alike by chance.
    assert walked(fifty, 4, config)[3][-1] != walked(fifty, 4, other)[3][-1]
    half = config.model_copy(update={"replay_share": 0.5})
    taken = [text.split() for batch in walked(fifty, 20, half) for text in batch[::4]]
    orders = {name: [number for side, number in taken if side == name] for name in ("new", "old")}
    assert orders["new"] != orders["old"]  # or files that begin alike would be walked through in step


def test_without_replay_batches_are_what_they_were():
    with_none = config_of()
    prompts = Prompts(numbered(9, "new"), [])
    fresh = walked(prompts, 3, with_none)
    half = config_of(replay_prompts="-", replay_share=0.5)
    both = walked(Prompts(prompts.fresh, numbered(3, "old")), 6, half)
    # The same walk, only slower.
    assert [text for batch in both for text in batch if "new" in text] == [
        t for batch in fresh for t in batch
    ]


@pytest.mark.parametrize("method", SETTINGS)
def test_a_prompt_in_both_files_is_no_harm_and_the_replayed_ones_have_a_figure(
    engine, llama, tmp_path, method
):
    files = {
        "prompts": write_rows(tmp_path / "new.jsonl", [{"prompt": text} for text in "abcd"]),
        "replay_prompts": write_rows(tmp_path / "old.jsonl", [{"prompt": text} for text in "cdef"]),
    }
    settings = SETTINGS[method] | files | {"steps": 4, "replay_share": 0.25}
    assert engine.run(method, "out", model=llama, **settings) == 0
    metrics = [event["metrics"] for event in engine.events("out", "metrics")]
    assert all(abs(row["replay_reward"]) <= 5 for row in metrics)
    assert any(row["replay_reward"] != row["reward"] for row in metrics)
    without = {name: value for name, value in settings.items() if not name.startswith("replay")}
    assert engine.run(method, "without", model=llama, **without) == 0
    assert all("replay_reward" not in event["metrics"] for event in engine.events("without", "metrics"))


def test_what_was_replayed_is_told_from_the_same_text_in_the_other_file(llama):
    config, players = players_of(llama, batch_size=8, minibatch_size=8)
    config = config.model_copy(update={"replay_prompts": "-", "replay_share": 0.5})
    prompts = Prompts([one_prompt("a")], [one_prompt("a")])
    rollout = collect(players, batch_prompts(prompts, 0, config), 0, config, NoWorkspace())
    assert prompts.replayed(rollout.prompts).tolist() == [False] * 4 + [True] * 4


def one_prompt(text):
    return PromptRecord(prompt=[{"role": "user", "content": text}])


def test_asked_to_stop_a_run_with_replay_continues_from_there(engine, llama, prompts, tmp_path):
    old = write_rows(tmp_path / "old.jsonl", [{"prompt": text} for text in ("c c", "d d", "e e")])
    replay = {"replay_prompts": old, "replay_share": 0.3, "checkpoint_every_steps": 1000}
    settings = GROUPED | replay | {"model": llama, "prompts": prompts, "steps": 8}
    assert engine.run("grpo", "whole", **settings) == 0
    assert engine.stop("grpo", "stopped", 2, **settings) == 143
    assert engine.run("grpo", "stopped", **settings) == 0
    assert engine.weights("stopped") == engine.weights("whole")
    assert engine.result("stopped") == engine.result("whole")


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("changes", [{"replay_share": 0.5}, {"replay_prompts": "earlier.jsonl"}])
def test_replay_prompts_and_share_go_together(engine, prompts, capsys, method, changes):
    settings = SETTINGS[method] | {"model": "no/such/model", "prompts": prompts} | changes
    assert engine.run(method, "out", **settings) == 2
    said = capsys.readouterr().err
    assert "replay_share: goes with replay_prompts; give both, or neither" in said and said.count("\n") == 1


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_leaves_room_for_fresh_prompts(share):
    with pytest.raises(ValueError, match="replay_share"):
        config_of(replay_prompts="-", replay_share=share)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"answer": 3}, "old.jsonl line 1: prompt: must be given"),
        ({"prompt": "a"}, "old.jsonl line 1: answer: must be given, which rewards.0 (number) compares with"),
    ],
)
def test_bad_rows_of_earlier_prompts_are_named_before_weights_load(
    engine, llama, tmp_path, capsys, monkeypatch, row, complaint
):
    def refuse(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("training.engine.online.load_policy", refuse)
    files = {
        "prompts": write_rows(tmp_path / "new.jsonl", [{"prompt": "a", "answer": 3}]),
        "replay_prompts": write_rows(tmp_path / "old.jsonl", [row]),
    }
    settings = PPO | files | {"rewards": [{"kind": "number"}], "replay_share": 0.5}
    assert engine.run("ppo", "out", model=llama, **settings) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
    missing = settings | {"replay_prompts": "/nowhere.jsonl"}
    assert engine.run("ppo", "other", model=llama, **missing) == 2
    assert "replay_prompts: there is no file /nowhere.jsonl" in capsys.readouterr().err
