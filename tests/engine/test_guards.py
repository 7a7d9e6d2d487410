"""What guards read, what they decide, and what is kept: worked by hand, and in runs of a second."""

import json
import math
import signal

import pytest
import torch

from tests.engine.conftest import (
    LIMITS,
    TOY,
    end,
    make_llama,
    make_tokenizer,
    policy_of,
    save,
    scorer_of,
    write_rows,
)
from tests.engine.test_training import HEALTHY, PPO, REWARD, players_of, rollout_of, taste
from training.engine import marking, online
from training.engine.config import Ppo
from training.engine.generation import Completion
from training.engine.guards import (
    GuardStop,
    Look,
    best_look,
    check_held_out,
    check_rollout,
    smoothed,
    text_metrics,
)
from training.engine.intervals import standard_error
from training.engine.judges import Judge
from training.engine.overoptimisation import fit_curve
from training.engine.records import MarkedRecord, PromptRecord, read_records

NAN = float("nan")


# What texts say


def test_one_word_again_and_again_is_found_in_texts_too_short_for_3_grams():
    metrics = text_metrics(["a a", "b b", "c d e"])
    # Pairs: aa, bb, cd, de; two are one word twice. The only 3-gram, cde, is new.
    assert metrics["run_share"] == 0.5 and metrics["repeated_share"] == 0.0
    assert text_metrics(["a", ""])["run_share"] == 0.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"run_share": 0.7}, "70% of the words only repeat the word before"),
        ({"length": 30.1}, "longer by more than a factor of 3: 30.1 tokens on average, 10.0 at the start"),
        ({"length": 3.3}, "shorter by more than a factor of 3: 3.3 tokens"),
    ],
)
def test_runs_and_drifts_of_length_stop_with_a_reason(change, reason):
    config = Ppo(model="-", prompts="-", rewards=[TOY])
    check_rollout(HEALTHY | {"length": 29.9}, HEALTHY, config)
    with pytest.raises(GuardStop, match=reason):
        check_rollout(HEALTHY | change, HEALTHY, config)
    with pytest.raises(GuardStop, match=r"factor of 1\.5"):
        check_rollout(
            HEALTHY | {"length": 16.0}, HEALTHY, config.model_copy(update={"max_length_factor": 1.5})
        )


# The two reward models part


def looks_of(rewards, held_out, error=0.1):
    return [
        Look(step, 1.0 * step, reward, held, error)
        for step, (reward, held) in enumerate(zip(rewards, held_out, strict=True))
    ]


def test_looks_are_averaged_over_three_with_their_error():
    means = smoothed(looks_of([1, 2, 3, 4], [3.0, 0.0, 6.0, 6.0], error=0.3))
    assert [mean.held_out for mean in means] == pytest.approx([3.0, 1.5, 3.0, 4.0])
    assert [mean.reward for mean in means] == pytest.approx([1.0, 1.5, 2.0, 3.0])
    assert means[1].held_out_error == pytest.approx(0.3 / math.sqrt(2))
    assert means[3].held_out_error == pytest.approx(0.3 / math.sqrt(3))
    assert best_look(looks_of([1, 2, 3, 4], [3.0, 0.0, 6.0, 6.0])).step == 3
    assert best_look(looks_of([1, 2], [3.0, 3.0])).step == 1  # of equal ones the latest


def test_it_stops_where_the_reward_rises_and_the_held_out_one_has_clearly_fallen():
    rising = list(range(8))
    held_out = [0.0, 1.0, 1.0, 1.0, 1.0, 0.6, 0.3, 0.3]
    # Best 1.0 after step 4, now 0.4; each with an error of 0.1 / sqrt(3), so the fall is 7.35 errors.
    check_held_out(looks_of(rising, held_out), 7.4)
    with pytest.raises(GuardStop, match=r"since step 4 the reward has risen from 3.00 to 6.00.*1.00 to 0.40"):
        check_held_out(looks_of(rising, held_out), 7.3)
    # Where the reward falls as well, it is no flaw of the reward that is learned.
    check_held_out(looks_of(rising[::-1], held_out), 1.0)
    # One bad rollout among good ones is averaged away.
    check_held_out(looks_of(rising, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2]), 4.0)
    check_held_out([], 4.0)


def test_standing_still_seldom_stops_a_run():
    stopped = 0
    for seed in range(40):
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(60, generator=random).tolist()
        looks = looks_of(range(60), noise, error=1.0)
        try:
            for count in range(1, 61):
                check_held_out(looks[:count], Ppo.model_fields["held_out_tolerance"].default)
        except GuardStop:
            stopped += 1
    assert stopped <= 4


def test_the_error_of_a_mean_counts_prompts_and_not_rows():
    # Two prompts whose rows agree wholly: two independent values, 0 and 1; variance 1/4 * 2/1 over 2.
    assert standard_error([0.0, 0.0, 1.0, 1.0], ["p", "p", "q", "q"]) == pytest.approx(0.5)
    # Of a single prompt rows are what is drawn.
    assert standard_error([0.0, 0.0, 1.0, 1.0], ["p"] * 4) == pytest.approx(math.sqrt(4 / 3 * 4 * 0.25 / 16))


# The curve of Gao et al.


def curve_points(alpha, beta, kls, start=0.0, noise=0.0):
    random = torch.Generator().manual_seed(1)
    errors = (noise * torch.randn(len(kls), generator=random)).tolist()
    return [
        start + math.sqrt(kl) * (alpha - beta * math.log(math.sqrt(kl))) + error if kl else start + error
        for kl, error in zip(kls, errors, strict=True)
    ]


def test_the_curve_and_its_peak_are_found():
    kls = [0.0, 0.3, 1.0, 2.0, 4.0, 7.0, 11.0]
    curve = fit_curve(kls, curve_points(1.0, 0.5, kls, start=0.7))
    assert (curve.start, curve.alpha, curve.beta) == pytest.approx((0.7, 1.0, 0.5))
    # d = exp(alpha / beta - 1) = e, so the KL is e squared: between the neighbours it is the greatest.
    assert curve.peak_kl == pytest.approx(math.exp(2))
    near = curve_points(1.0, 0.5, [0.97 * math.exp(2), math.exp(2), 1.03 * math.exp(2)])
    assert near[1] > max(near[0], near[2])
    noisy = fit_curve(
        [kl / 4 for kl in range(60)], curve_points(1.0, 0.5, [kl / 4 for kl in range(60)], noise=0.05)
    )
    assert noisy.peak_kl == pytest.approx(math.exp(2), rel=0.2)


def test_no_curve_without_five_points_or_a_spread_of_kl():
    kls = [0.0, 1.0, 2.0, 4.0]
    assert fit_curve(kls, curve_points(1.0, 0.5, kls)) is None
    assert fit_curve([4.0, 4.1, 4.2, 4.1, 4.0, 4.2], [1.0, 1.1, 0.9, 1.0, 1.2, 1.1]) is None
    assert fit_curve([0.0] * 6, [0.0] * 6) is None


def test_a_reward_that_only_rises_or_peaks_far_out_has_no_peak_in_sight():
    kls = [0.0, 0.3, 1.0, 2.0, 4.0, 7.0]
    assert fit_curve(kls, curve_points(1.0, -0.2, kls)).peak_kl is None
    assert fit_curve(kls, curve_points(1.0, 0.1, kls)).peak_kl is None  # exp(18) nats
    assert fit_curve(kls, curve_points(1.0, 0.5, kls)).peak_kl is not None


# What is marked


def test_both_reasons_are_marked_in_turn_with_distinct_texts(llama):
    config, players = players_of(llama, marked_samples=4)
    rollout = rollout_of(config, players)
    rollout.texts = [f"text {row // 2}" for row in range(32)]
    rollout.scores = torch.arange(32.0)
    rollout.held_out = torch.arange(32.0)
    rollout.held_out[4] = 100.0
    scale = {"reward": [0.0, 1.0], "held_out": [0.0, 2.0]}
    assert marking.disagreement(rollout.scores, rollout.held_out, scale)[4] == pytest.approx(46.0)  # |4 - 50|
    chosen = marking.choose(marking.candidates(rollout, scale, 4, 2), 4)
    # Rewards 31 (text 15), 29, ...; disagreements 46 (text 2), then 31 / 2 (text 15, which is there already).
    assert [one.completion for one in chosen] == ["text 15", "text 2", "text 14", "text 13"]
    assert [one.reason for one in chosen][:2] == list(marking.REASONS.values())[:2]
    assert (chosen[1].reward, chosen[1].held_out_reward, chosen[1].sample) == (4.0, 100.0, 0)
    assert chosen[1].tokens == rollout.lengths[4]
    assert all(one.spread is None for one in chosen), "there is one member"
    rollout.spread = torch.zeros(32)
    rollout.spread[10] = 3.0  # text 5
    third = marking.choose(marking.candidates(rollout, scale, 4, 2), 3)
    assert [one.completion for one in third] == ["text 15", "text 2", "text 5"]
    assert (third[2].reason, third[2].spread) == (marking.REASONS["spread"], 3.0)
    rollout.spread = None
    alone = marking.choose(marking.candidates(rollout, {"reward": [0.0, 1.0]}, 4, 2), 3)
    assert [one.completion for one in alone] == ["text 15", "text 14", "text 13"]


# The held-out reward model in a run


@pytest.fixture(scope="module")
def dislikes_a(llama, tmp_path_factory):
    """A reward model that wants the opposite of TOY."""
    from training.engine.__main__ import main

    kept = signal.getsignal(signal.SIGTERM)
    folder = tmp_path_factory.mktemp("judge")
    rows = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in taste(48)]
    config = REWARD | LIMITS | {"model": llama, "train_data": write_rows(folder / "train.jsonl", rows)}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["reward", str(folder / "config.json"), str(folder / "out")]) == 0
    signal.signal(signal.SIGTERM, kept)
    return str(folder / "out" / "model")


def test_a_reward_that_a_held_out_one_falls_with_stops_the_run(engine, llama, prompts, dislikes_a):
    settings = PPO | {"model": llama, "prompts": prompts, "held_out_tolerance": 2.0, "marked_samples": 10}
    assert engine.run("ppo", "out", held_out_reward_model=dislikes_a, **settings) == 3
    result = engine.result("out")
    assert "what the policy now learns pleases its reward alone" in result["stopped_by"]
    assert result["kept"] == "best by the held-out reward model"
    shown = [event["metrics"] for event in engine.events("out", "metrics")]
    assert all("held_out_reward" in metrics and "held_out_error" in metrics for metrics in shown)
    assert result["held_out_reward"] == pytest.approx(shown[result["kept_step"]]["held_out_reward"])
    scores = [metrics["held_out_reward"] for metrics in shown]
    windows = [scores[max(0, last - 2) : last + 1] for last in range(len(scores))]
    means = [sum(window) / len(window) for window in windows]
    assert result["kept_step"] == result["steps"] == means.index(max(means)) < len(shown) - 1
    marked = read_records(engine.folder / "out" / "marked.jsonl", MarkedRecord)
    assert len(marked) == 10 == len({one.completion for one in marked})
    assert {one.reason for one in marked} == {marking.REASONS[name] for name in ("reward", "disagreement")}
    assert all(one.held_out_reward is not None for one in marked)


def test_without_a_held_out_reward_model_the_last_good_policy_is_kept(engine, llama, prompts):
    assert engine.run("ppo", "out", model=llama, prompts=prompts, **PPO | {"steps": 2}) == 0
    result = engine.result("out")
    assert (result["kept"], result["kept_step"]) == ("last within limits", 2)
    assert result["overoptimisation"] is None and result["rollbacks"] == 0
    marked = read_records(engine.folder / "out" / "marked.jsonl", MarkedRecord)
    assert {one.reason for one in marked} == {marking.REASONS["reward"]}
    assert marked[0].reward == max(one.reward for one in marked)


def test_what_the_members_of_an_ensemble_disagree_about_is_marked(engine, llama, prompts, tmp_path):
    train = write_rows(tmp_path / "train.jsonl", taste(24))
    assert engine.run("reward", "judge", model=llama, train_data=train, **REWARD | {"members": 3}) == 0
    settings = PPO | {"rewards": [], "reward_model": str(engine.folder / "judge" / "model"), "steps": 2}
    assert engine.run("ppo", "out", model=llama, prompts=prompts, **settings) in (0, 3)
    marked = read_records(engine.folder / "out" / "marked.jsonl", MarkedRecord)
    by_spread = [one for one in marked if one.reason == marking.REASONS["spread"]]
    assert by_spread and by_spread[0].spread == max(one.spread for one in marked)


def test_the_held_out_model_is_asked_now_and_then_if_so_told(engine, llama, prompts, dislikes_a):
    settings = PPO | {"steps": 5, "held_out_every_steps": 2, "held_out_tolerance": 1e9}
    held_out = {"held_out_reward_model": dislikes_a}
    assert engine.run("ppo", "out", model=llama, prompts=prompts, **settings, **held_out) == 0
    asked = ["held_out_reward" in event["metrics"] for event in engine.events("out", "metrics")]
    assert asked == [True, False, True, False, True]
    assert engine.result("out")["kept_step"] in (0, 2, 4, 5)


def test_a_run_whose_last_policy_is_the_best_ends_well(engine, llama, prompts, tmp_path):
    """The best policy's weights are then those of the last good state, and both are in the checkpoint."""
    train = write_rows(tmp_path / "train.jsonl", taste(48))
    assert engine.run("reward", "likes_a", model=llama, train_data=train, **REWARD) == 0
    settings = PPO | {"steps": 8, "held_out_reward_model": str(engine.folder / "likes_a" / "model")}
    assert engine.run("ppo", "out", model=llama, prompts=prompts, **settings) == 0
    scores = [event["metrics"]["held_out_reward"] for event in engine.events("out", "metrics")]
    means = [sum(scores[max(0, last - 2) : last + 1]) for last in range(2, 8)]
    assert max(means) == means[-1], "it rose to the end"


def test_killed_and_continued_a_watched_run_ends_as_one_that_never_was(engine, llama, prompts, dislikes_a):
    settings = PPO | {
        "model": llama, "prompts": prompts, "steps": 8, "checkpoint_every_steps": 2,
        "held_out_reward_model": dislikes_a, "held_out_tolerance": 1e9,
    }  # fmt: skip
    assert engine.run("ppo", "whole", **settings) == 0
    child = engine.start("ppo", "killed", **settings)
    engine.wait_for_step("killed", 4)
    assert end(child) == -signal.SIGKILL
    assert engine.stop("ppo", "killed", 7, **settings) == 143
    assert engine.run("ppo", "killed", **settings) == 0
    assert engine.weights("killed") == engine.weights("whole")
    assert engine.result("killed") == engine.result("whole")
    assert engine.result("whole")["overoptimisation"]["points"] == 9
    marked = [(engine.folder / out / "marked.jsonl").read_text() for out in ("killed", "whole")]
    assert marked[0] == marked[1]


def test_the_reward_model_itself_is_no_held_out_one(engine, llama, prompts, dislikes_a, capsys):
    same = {"reward_model": dislikes_a, "held_out_reward_model": dislikes_a}
    assert engine.run("ppo", "out", model=llama, prompts=prompts, **same) == 2
    assert "held_out_reward_model: must be another model than reward_model" in capsys.readouterr().err
    assert (
        engine.run("ppo", "out", model=llama, prompts=prompts, rewards=[TOY], held_out_reward_model=llama)
        == 2
    )
    assert "held_out_reward_model: " in capsys.readouterr().err


def test_a_judge_reads_ids_or_the_text_of_ids(llama, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["more"])
    folder = save(tmp_path, make_llama(vocab_size=13), tokenizer)
    config, policy = Ppo(model=llama, prompts="-", rewards=[TOY], **LIMITS), policy_of(llama)
    prompt = PromptRecord(prompt=[{"role": "user", "content": "b"}])
    completion = Completion([5], [4, 6, 0], torch.zeros(3), True)
    by_text = Judge(scorer_of(folder), policy, config)
    other = Completion([9], [9, 9, 0], torch.zeros(3), True)  # The ids are not what is read.
    assert not by_text.reads_ids
    assert by_text([prompt], [completion], ["a c"]) == by_text([prompt], [other], ["a c"])
    by_ids = Judge(scorer_of(llama), policy, config)
    assert by_ids.reads_ids
    assert by_ids([prompt], [completion], [""]) == Judge(scorer_of(llama), policy, config)._scorer.score_rows(
        [online.Tokens([5], [4, 6, 0])], 100
    )


# Numbers that are not finite


class Broken:
    """Puts NaN into what the policy says or holds, after chosen iterations."""

    def __init__(self, monkeypatch, kind, steps):
        self.kind, self.steps = kind, steps
        collect, update = online.collect, online.OnlineState.after_update
        self.step = 0

        def broken_collect(players, prompts, step, config, workspace):
            rollout = collect(players, prompts, step, config, workspace)
            self.step = step
            if kind == "score" and step in steps:
                rollout.scores[3] = NAN
            return rollout

        def broken_update(state, refused):
            if kind in ("weight", "logit") and self.step in steps:
                weight = state._weights["policy"]["lm_head.weight"]
                # A weight this large is finite, and its logits are not.
                value = NAN if kind == "weight" else 3e38
                with torch.no_grad():
                    weight[5] = value
            return update(state, refused)

        monkeypatch.setattr(online, "collect", broken_collect)
        monkeypatch.setattr(online.OnlineState, "after_update", broken_update)


@pytest.mark.parametrize("kind", ["weight", "logit", "score"])
def test_broken_numbers_take_the_run_back_and_on(engine, llama, prompts, monkeypatch, kind):
    Broken(monkeypatch, kind, {4})
    seen = []
    accept = online.OnlineState.accept

    def remember(state, rollout, summary):
        accept(state, rollout, summary)
        adam = state._updaters["policy"].state_dict()
        seen.append((summary["steps"], adam["done"], state._snapshot()))

    monkeypatch.setattr(online.OnlineState, "accept", remember)
    assert engine.run("ppo", "out", model=llama, prompts=prompts, **PPO | {"steps": 8}) == 0
    result = engine.result("out")
    assert result["rollbacks"] == 1 and result["stopped_by"] is None and result["kept_step"] == 8
    assert any("back to the last good state" in one["text"] for one in engine.events("out", "message"))
    shown = [event["metrics"]["rollbacks"] for event in engine.events("out", "metrics")]
    assert len(shown) == 8 and shown[3] == 0 and shown[-1] == 1
    # What was good after the fault is what was good before it: weights, critic, moments and schedule.
    steps = [step for step, _, _ in seen]
    after = steps.index(6 if kind == "logit" else 5)
    (_, done, was), (_, done_now, now) = seen[after - 1], seen[after]
    assert done == done_now
    assert all(torch.equal(was.tensors[name], tensor) for name, tensor in now.tensors.items())
    for name in was.updaters:
        for number, moments in was.updaters[name]["adam"]["state"].items():
            again = now.updaters[name]["adam"]["state"][number]
            assert all(torch.equal(moments[key], again[key]) for key in moments)


@pytest.mark.parametrize("kind", ["weight", "logit", "score"])
def test_numbers_that_stay_broken_stop_the_run_with_the_last_good_policy(
    engine, llama, prompts, monkeypatch, kind
):
    Broken(monkeypatch, kind, set(range(4, 20)))
    assert engine.run("ppo", "out", model=llama, prompts=prompts, **PPO) == 3
    result = engine.result("out")
    assert "were not finite in 3 iterations in a row" in result["stopped_by"]
    assert result["kept_step"] <= 8 and result["rollbacks"] == 3
    assert all(torch.isfinite(torch.tensor(value)) for value in (result["kl_nats"], result["entropy"]))
    assert engine.run("generate", "check", model=str(engine.folder / "out/model"), prompts=prompts) == 0


def test_stopped_between_an_update_and_its_proof_a_run_can_still_go_back(engine, llama, prompts, monkeypatch):
    settings = PPO | {"model": llama, "prompts": prompts, "steps": 7}
    with monkeypatch.context() as patch:
        Broken(patch, "logit", {4})
        assert engine.run("ppo", "whole", **settings) == 0
    assert engine.result("whole")["rollbacks"] == 1
    collect = online.collect

    def ask_to_stop(players, prompts, step, config, workspace):
        if step == 5:  # The update of step 4 has broken the policy, and no rollout has shown it yet.
            workspace.stopping = True
        return collect(players, prompts, step, config, workspace)

    with monkeypatch.context() as patch:
        Broken(patch, "logit", {4})
        broken = online.collect
        patch.setattr(
            online, "collect", lambda *given: broken(*given) if given[2] < 5 else ask_to_stop(*given)
        )
        assert engine.run("ppo", "stopped", **settings) == 143
    assert engine.run("ppo", "stopped", **settings) == 0
    assert engine.result("stopped") == engine.result("whole")
    assert engine.weights("stopped") == engine.weights("whole")


# Two judges


def test_a_second_judge_has_a_win_rate_of_its_own(engine, llama, other_llama, prompts, dislikes_a, tmp_path):
    train = write_rows(tmp_path / "train.jsonl", taste(48))
    engine.run("reward", "likes", model=llama, train_data=train, **REWARD)
    likes = str(engine.folder / "likes" / "model")
    common = {"model": other_llama, "baseline_model": llama, "prompts": prompts, "samples_per_prompt": 8}
    assert engine.run("evaluate", "both", judge_model=likes, second_judge_model=dislikes_a, **common) == 0
    assert engine.run("evaluate", "swapped", judge_model=dislikes_a, second_judge_model=likes, **common) == 0
    both, swapped = engine.result("both"), engine.result("swapped")
    for figure in ("win_rate", "win_rate_interval", "judge_mean", "baseline_judge_mean"):
        assert both[figure] == swapped[f"second_{figure}"] != both[f"second_{figure}"] == swapped[figure]
    assert both["second_win_rate_interval"][0] < both["second_win_rate"] < both["second_win_rate_interval"][1]
    assert engine.run("evaluate", "alone", judge_model=likes, **common) == 0
    assert engine.result("alone")["second_win_rate"] is None
