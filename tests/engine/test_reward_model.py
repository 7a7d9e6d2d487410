"""Rankings, ensembles, criteria and replay of the reward model, and what its report says."""

import json
import math
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification

from tests.engine.conftest import LIMITS, end, make_llama, make_tokenizer, save, write_rows
from tests.engine.test_training import REWARD, gradients, taste
from training.engine.batches import Encoder, Tokens
from training.engine.config import EngineError, Reward
from training.engine.ensemble import EnsembleHead
from training.engine.loading import load_scorer
from training.engine.networks import generator, trained_parameters
from training.engine.preferences import (
    Judgment,
    Preference,
    bootstrap,
    encode,
    passes,
    preferences_of,
    within_span,
)
from training.engine.records import PreferenceRecord, RankingRecord, read_judgments
from training.engine.reward_model import batch_of, prepare_head, steps_per_epoch, update
from training.engine.reward_report import accuracy_by_length, chance_above, describe_judgments
from training.engine.runtime import settle
from training.engine.updates import Updater

PAIR = {"prompt": "c", "chosen": "a b", "rejected": "d"}
RANKING = {"prompt": "c", "completions": ["d", "a b"], "ranking": [[1], [0]]}


def config_of(folder, **changes):
    return Reward(model=folder, train_data="-", **LIMITS | {"max_grad_norm": 1e9} | changes)


def scorer_for(config):
    scorer = load_scorer(config.model, config, settle(config), labels=1 + len(config.criteria))
    prepare_head(scorer, config)
    return scorer


def judgments_of(scorer, config, *rows):
    kinds = [RankingRecord if "ranking" in row else PreferenceRecord for row in rows]
    records = [kind.model_validate(row) for kind, row in zip(kinds, rows, strict=True)]
    return encode(records, Encoder(scorer.tokenizer, scorer.end_tokens, config), config.criteria)


def gradient_of(scorer, judgments, config, monkeypatch):
    """The loss of a step and its gradients, which the updater would clear."""
    weights = trained_parameters(scorer.model)
    for weight in weights.values():
        weight.grad = None
    updater = Updater(weights, 1e-30, 10, config)
    monkeypatch.setattr(updater, "drop", lambda: None)
    return update(scorer, updater, judgments, config)["loss"], gradients(weights)


def scores_of(engine, out, model, rows, tmp_path):
    data = write_rows(tmp_path / f"{out}.jsonl", rows)
    assert engine.run("score", out, model=str(model), completions=data) == 0
    return [json.loads(line) for line in (engine.folder / out / "scores.jsonl").open()]


# Rankings


def test_a_ranking_of_two_teaches_what_the_pair_teaches(llama, monkeypatch):
    config = config_of(llama)
    scorer = scorer_for(config)
    found = [
        gradient_of(scorer, judgments_of(scorer, config, row), config, monkeypatch) for row in (PAIR, RANKING)
    ]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-5)


def test_the_loss_of_a_pair_is_that_of_plackett_and_luce(llama, monkeypatch):
    config = config_of(llama, center_coefficient=0.0)
    scorer = scorer_for(config)
    (judgment,) = judgments_of(scorer, config, PAIR)
    first, second = scorer.score_rows(list(judgment.rows), 1000).double().exp().tolist()
    loss, _ = gradient_of(scorer, [judgment], config, monkeypatch)
    assert loss == pytest.approx(-math.log(first / (first + second)), rel=1e-5)


def test_from_equal_scores_the_swapped_pair_pulls_the_other_way_and_a_tie_nowhere(llama, monkeypatch):
    config = config_of(llama)
    scorer = scorer_for(config)
    with torch.no_grad():
        scorer.model.score.weight.zero_()
    swapped = {"prompt": "c", "chosen": "d", "rejected": "a b"}
    tie = {"prompt": "c", "completions": ["d", "a b"], "ranking": [[0, 1]]}
    one, other, none = (
        gradient_of(scorer, judgments_of(scorer, config, row), config, monkeypatch)[1]["score.weight"]
        for row in (PAIR, swapped, tie)
    )
    assert one.abs().max() > 0.01
    torch.testing.assert_close(one, -other)
    assert not none.any()


def test_the_pairs_of_a_ranking_share_its_weight():
    # Of four, c is left out, and a and d are tied below b: three pairs, a third of the weight each.
    row = RankingRecord.model_validate(
        {"prompt": "p", "completions": ["a", "b", "c", "d"], "ranking": [[1], [0, 3]], "weight": 1.5}
    )
    assert preferences_of(row) == [
        Preference(1, 0, False, 0.5),
        Preference(1, 3, False, 0.5),
        Preference(0, 3, True, 0.5),
    ]
    whole = RankingRecord.model_validate(
        {"prompt": "p", "completions": list("abcd"), "ranking": [[2], [0], [3], [1]]}
    )
    assert [(one.chosen, one.rejected) for one in preferences_of(whole)] == [
        (2, 0), (2, 3), (2, 1), (0, 3), (0, 1), (3, 1)
    ]  # fmt: skip
    assert {one.weight for one in preferences_of(whole)} == {1 / 6}


def test_a_pair_keeps_its_weight_times_its_strength():
    row = PreferenceRecord.model_validate(PAIR | {"weight": 0.5, "strength": 3})
    assert preferences_of(row) == [Preference(0, 1, False, 1.5, strength=3)]
    tied = PreferenceRecord.model_validate(PAIR | {"strength": 0})
    assert preferences_of(tied) == [Preference(0, 1, True, 1.0)]


def test_what_is_not_ranked_is_not_read(llama):
    config = config_of(llama)
    scorer = scorer_for(config)
    row = {"prompt": "c", "completions": ["a", "b", "d", "e"], "ranking": [[3], [0, 2]]}
    (judgment,) = judgments_of(scorer, config, row)
    words = [scorer.tokenizer.decode(row.completion[:-1]) for row in judgment.rows]
    assert words == ["a", "d", "e"]
    assert [(one.chosen, one.rejected, one.tie) for one in judgment.preferences] == [
        (2, 0, False), (2, 1, False), (0, 1, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"ranking": [[0], [2]]}, "ranking names completion 2, there are 0 to 1"),
        ({"ranking": [[0], [1, 0]]}, "ranking names a completion twice"),
        ({"ranking": [[0]]}, "ranking must order at least two completions"),
        ({"ranking": [0, 1]}, "ranking.0: "),
        ({"completions": ["a", ""]}, "completions.1: "),
        ({"completions": ["a", "a"]}, "ranking orders the same text twice"),
        ({"completions": None}, "completions: "),
        ({"weight": 0}, "weight: "),
        ({"criteria": {"help": [1]}}, r"criteria.help has 1 ratings for 2 completions"),
    ],
)
def test_a_bad_ranking_is_named_with_file_and_line(engine, llama, tmp_path, capsys, row, complaint):
    path = write_rows(tmp_path / "rows.jsonl", [PAIR, RANKING, RANKING | row])
    assert engine.run("reward", "out", model=llama, train_data=path) == 2
    said = capsys.readouterr().err
    assert f"rows.jsonl line 3: {complaint}" in said and said.count("\n") == 1


def test_pairs_and_rankings_stand_in_one_file(tmp_path):
    told = PAIR | {"prompt": [{"role": "ranking", "content": 'a "ranking"'}]}
    path = write_rows(tmp_path / "rows.jsonl", [PAIR, RANKING, told])
    kinds = [PreferenceRecord, RankingRecord, PreferenceRecord]
    assert [type(record) for record in read_judgments(path)] == kinds
    (tmp_path / "rows.jsonl").write_text('{"ranking": \n')
    with pytest.raises(EngineError, match=r"rows.jsonl line 1: not JSON"):
        read_judgments(path)


@pytest.mark.parametrize("lines", [True, False])
def test_a_judgment_stays_whole_and_passes_keep_to_the_budget(lines):
    def judgment(count, length):
        rows = tuple(Tokens([1], [2] * (length - 1)) for _ in range(count))
        return Judgment(rows, (Preference(0, 1, False, 1.0),), "p")

    judgments = [judgment(2, 10), judgment(8, 3), judgment(3, 4), judgment(2, 2), judgment(4, 30)]
    groups = passes(judgments, 40, lines)
    assert sorted(map(id, judgments)) == sorted(id(one) for group in groups for one in group)
    for group in groups:
        padded = sum(len(one.rows) for one in group) * max(one.longest for one in group)
        on_line = sum(1 + sum(len(row.completion) for row in one.rows) for one in group)
        assert (on_line if lines else padded) <= 40 or len(group) == 1
    assert len(groups) == (3 if lines else 4)


# Gradients against a plain loop


MIXED = (
    {"prompt": "c", "completions": ["d", "a b", "e f g", "h"], "ranking": [[1], [0, 3], [2]], "weight": 2.0,
     "criteria": {"short": [3, 2, None, 3]}},
    {"prompt": "a b", "chosen": "c", "rejected": "d e f g", "strength": 2, "criteria": {"short": [1, 0]}},
    {"prompt": "f", "chosen": "a a", "rejected": "b", "tie": True},
    {"prompt": "g h", "completions": ["a", "b", "c"], "ranking": [[2], [0]], "criteria": {"short": [0, 2, 1]}},
)  # fmt: skip


def plain_loss(scorer, judgments, config):
    """The same loss, worked out a pair, a member and a row at a time."""
    head, total, weight = scorer.model.score, 0.0, 0.0

    def read(row):
        ids = torch.tensor([row.prompt + row.completion])
        state = scorer.model.base_model(input_ids=ids).last_hidden_state[0, -1]
        still = state.detach() / (state.detach().pow(2).mean() + 1e-6).sqrt()
        found = []
        for label, vector in enumerate(head.weight):
            prior = head.prior_out[label] @ torch.tanh(head.prior_in @ still) if label < config.members else 0
            found.append(vector @ state + prior)
        return found

    for judgment in judgments:
        scores = [read(row) for row in judgment.rows]
        for one in judgment.preferences:
            for place in range(config.members + len(config.criteria)):
                if one.label == 0 and place < config.members:
                    factor = judgment.draws[place] / config.members
                elif place == config.members + one.label - 1 and one.label:
                    factor = config.criteria_coefficient / len(config.criteria)
                else:
                    continue
                high, low = scores[one.chosen][place], scores[one.rejected][place]
                loss = -logsigmoid(high - low)
                if one.tie:
                    loss = loss / 2 - logsigmoid(low - high) / 2
                total = total + one.weight * factor * (loss + config.center_coefficient * (high + low) ** 2)
            weight += one.weight if one.label == 0 else 0.0
    return total / weight


def test_gradients_of_rankings_and_an_ensemble_are_those_of_a_plain_loop_in_any_passes(llama, monkeypatch):
    settings = {"members": 3, "criteria": ["short"], "criteria_coefficient": 0.5, "center_coefficient": 0.02}
    config = config_of(llama, **settings)
    scorer = scorer_for(config)
    judgments = bootstrap(judgments_of(scorer, config, *MIXED), 3, 1, "train")
    assert {draw for judgment in judgments for draw in judgment.draws} >= {0, 1, 2}
    wanted = plain_loss(scorer, judgments, config)
    wanted.backward()
    plain = gradients(trained_parameters(scorer.model))
    assert all(plain["score.weight"].abs().sum(dim=1) > 0)
    for budget, order in ((1000, 1), (12, 1), (12, -1)):
        cut = config.model_copy(update={"micro_batch_tokens": budget})
        loss, found = gradient_of(scorer, judgments[::order], cut, monkeypatch)
        assert loss == pytest.approx(wanted.item(), rel=1e-5)
        torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-4)


# The ensemble


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4, "learning_rate": 2e-2}])
def test_plain_transformers_reads_the_mean_of_the_members(engine, llama, tmp_path, changes):
    train = write_rows(tmp_path / "train.jsonl", [*taste(47, "abcd"), RANKING])
    settings = REWARD | {"members": 3, "criteria": ()} | changes
    held_out = write_rows(tmp_path / "eval.jsonl", taste(24, "efgh"))
    assert engine.run("reward", "out", model=llama, train_data=train, eval_data=held_out, **settings) == 0
    assert engine.result("out")["accuracy"] > 0.9
    model = engine.folder / "out" / "model"
    rows = [{"prompt": "a b", "completion": "c d e"}, {"prompt": "c", "completion": "a"}]
    ours = scores_of(engine, "score", model, rows, tmp_path)

    plain = AutoModelForSequenceClassification.from_pretrained(model)
    assert plain.config.num_labels == 1 and plain.score.weight.shape == (1, 32)
    members = load_file(model / "ensemble.safetensors")
    for row, said in zip(rows, ours, strict=True):
        ids = torch.tensor([make_tokenizer()(f"{row['prompt']} {row['completion']} <end>")["input_ids"]])
        with torch.no_grad():
            state = plain.base_model(input_ids=ids).last_hidden_state[0, -1]
            score = plain(input_ids=ids).logits[0, 0] - plain.config.score_mean
        still = state / (state.pow(2).mean() + 1e-6).sqrt()
        priors = members["prior_out"] @ torch.tanh(members["prior_in"] @ still)
        each = members["weight"] @ state + priors - members["means"]
        assert said["score"] == pytest.approx(score.item(), abs=1e-4)
        assert said["score"] == pytest.approx(each.mean().item(), abs=1e-4)
        assert said["spread"] == pytest.approx(each.std(correction=0).item(), rel=1e-3)
        assert said["spread"] > 0.01
    assert engine.result("score")["spread_mean"] == pytest.approx(sum(row["spread"] for row in ours) / 2)


def test_the_random_functions_cancel_over_the_members_and_pass_no_gradient():
    head = EnsembleHead(8, 4, others=1)
    head.draw_priors(2.0, generator(1, "priors"))
    with torch.no_grad():
        head.weight.zero_()
    states = torch.randn(500, 8, requires_grad=True)
    scores = head(states)
    assert not scores[:, 4].any()
    torch.testing.assert_close(scores[:, :4].mean(dim=1), torch.zeros(500), atol=1e-6, rtol=0)
    assert float(scores[:, :4].detach().std()) == pytest.approx(2.0 * math.sqrt(3 / 4), rel=0.3)
    scores.sum().backward()
    assert not states.grad.any()


def test_members_differ_more_far_from_the_data_than_on_it(engine, llama, tmp_path):
    rows = taste(48, "abcd")
    train = write_rows(tmp_path / "train.jsonl", rows)
    known = [
        {"prompt": row["prompt"], "completion": row[side]} for row in rows for side in ("chosen", "rejected")
    ]
    ratios = []
    for seed in (1, 2, 3):
        settings = REWARD | {"members": 4, "epochs": 6, "seed": seed}
        assert engine.run("reward", f"out{seed}", model=llama, train_data=train, **settings) == 0
        order = torch.randint(8, (96, 7), generator=torch.Generator().manual_seed(seed)).tolist()
        texts = [" ".join("abcdefgh"[number] for number in line) for line in order]
        strange = [{"prompt": text[-5:], "completion": text} for text in texts]
        near, far = (
            scores_of(engine, f"{name}{seed}", engine.folder / f"out{seed}" / "model", part, tmp_path)
            for name, part in (("near", known), ("far", strange))
        )
        ratios.append(sum(row["spread"] for row in far) / sum(row["spread"] for row in near))
    assert sum(ratios) / 3 > 1.2, ratios


def test_normalising_scales_all_of_a_members_score():
    head = EnsembleHead(8, 3)
    head.draw_priors(1.0, generator(1, "priors"))
    states = torch.randn(5, 8)
    with torch.no_grad():
        before = head(states)
        head.normalize(4.0, torch.tensor([1.0, 2.0, 3.0]))
        torch.testing.assert_close(head(states), before / 4)
    assert head.means.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_functions_stay_where_there_is_no_data(seed):
    """Learned on a few directions, members agree there, and differ by their random functions elsewhere."""
    random = torch.Generator().manual_seed(seed)
    head = EnsembleHead(16, 4)
    head.draw_priors(1.0, generator(seed, "priors"))
    torch.nn.init.zeros_(head.weight)
    data = torch.randn(200, 16, generator=random) * torch.tensor([1.0] * 4 + [0.0] * 12)
    wanted = data[:, :1].expand(-1, 4)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        ((head(data) - wanted) ** 2).mean().backward()
        optimiser.step()
    elsewhere = torch.randn(200, 16, generator=random) * torch.tensor([0.0] * 4 + [1.0] * 12)
    with torch.no_grad():
        near, far = (head(states).std(dim=1, correction=0).mean() for states in (data, elsewhere))
    assert far > 1.3 * near > 0


def test_bootstrap_samples_depend_on_the_seed_alone():
    judgments = [Judgment((), (), str(number)) for number in range(2000)]
    first, again, other = (bootstrap(judgments, 4, seed, "train") for seed in (1, 1, 2))
    assert first == again != other
    assert [judgment.draws for judgment in bootstrap(judgments, 4, 1, "replay")] != [
        judgment.draws for judgment in first
    ]
    counts = Counter(draw for judgment in first for draw in judgment.draws)
    for draw in range(3):  # Poisson of mean 1: 0.368, 0.368, 0.184
        assert counts[draw] / 8000 == pytest.approx(math.exp(-1) / math.factorial(draw), abs=0.02)
    assert len({tuple(judgment.draws[member] for judgment in first) for member in range(4)}) == 4
    assert bootstrap(judgments, 1, 1, "train") == judgments


EVERYTHING = {"members": 3, "criteria": ["short"], "replay_share": 0.25, "lora_rank": 2}


def test_a_killed_run_with_everything_ends_with_the_same_weights_and_members(engine, llama, tmp_path):
    rows = [row | {"criteria": {"short": [0, 1]}} for row in taste(48, "abcd")]
    earlier = write_rows(tmp_path / "earlier.jsonl", [*taste(5, "ab"), RANKING])
    settings = REWARD | EVERYTHING | {"model": llama, "checkpoint_every_steps": 2, "replay_data": earlier}
    settings["train_data"] = write_rows(tmp_path / "train.jsonl", rows)
    assert engine.run("reward", "whole", **settings) == 0
    child = engine.start("reward", "killed", **settings)
    engine.wait_for_step("killed", 5)
    end(child)
    assert not (engine.folder / "killed" / "result.json").exists()
    assert engine.run("reward", "killed", **settings) == 0
    assert engine.weights("killed") == engine.weights("whole")
    both = [(engine.folder / out / "model/ensemble.safetensors").read_bytes() for out in ("killed", "whole")]
    assert both[0] == both[1]
    assert engine.result("killed") == engine.result("whole")


def test_a_model_of_one_member_is_read_as_before(engine, llama, tmp_path, prompts):
    train = write_rows(tmp_path / "train.jsonl", taste(16))
    assert engine.run("reward", "out", model=llama, train_data=train, **REWARD) == 0
    model = engine.folder / "out" / "model"
    assert not (model / "ensemble.safetensors").exists()
    (row,) = scores_of(engine, "score", model, [{"prompt": "a", "completion": "b"}], tmp_path)
    assert row["spread"] is None and math.isfinite(row["score"])
    config = config_of(llama)
    scorer = load_scorer(str(model), config, settle(config))
    rows = [Tokens([4], [5, 0]), Tokens([4, 5], [6, 7, 0])]
    mean, spread = scorer.score_rows_with_spread(rows, 100)
    torch.testing.assert_close(mean, scorer.score_rows(rows, 100))
    assert not spread.any()


# Criteria


def test_each_criterion_is_learned_as_a_label_of_its_own(engine, llama, tmp_path):
    def rated(rows):  # People want `a`; by `plain` the other one is better, and `absent` is never said.
        return [row | {"criteria": {"plain": [1, 4], "clear": [2, 1]}} for row in rows]

    train = write_rows(tmp_path / "train.jsonl", rated(taste(48, "abcd")))
    held_out = write_rows(tmp_path / "eval.jsonl", rated(taste(24, "efgh")))
    settings = REWARD | {"model": llama, "train_data": train, "eval_data": held_out}
    assert engine.run("reward", "out", criteria=["plain", "clear"], **settings) == 0
    result = engine.result("out")
    assert result["accuracy"] == 1.0
    assert result["accuracy_by_criterion"]["plain"]["accuracy"] == 1.0
    assert result["accuracy_by_criterion"]["clear"]["pairs"] == 24

    plain = AutoModelForSequenceClassification.from_pretrained(engine.folder / "out" / "model")
    assert plain.config.id2label == {0: "overall", 1: "plain", 2: "clear"}
    tokenizer = make_tokenizer()
    chosen, rejected = (
        torch.tensor([tokenizer(f"a e {text} <end>")["input_ids"]]) for text in ("b a", "e b")
    )
    with torch.no_grad():
        better = (plain(input_ids=chosen).logits > plain(input_ids=rejected).logits)[0].tolist()
    assert better == [True, False, True]


def test_a_model_with_criteria_scores_and_starts_a_critic(engine, llama, tmp_path, prompts):
    rows = [row | {"criteria": {"plain": [0, 1]}} for row in taste(16)]
    train = write_rows(tmp_path / "train.jsonl", rows)
    settings = REWARD | {"members": 2, "criteria": ["plain"]}
    assert engine.run("reward", "out", model=llama, train_data=train, **settings) == 0
    model = str(engine.folder / "out" / "model")
    short = {
        "steps": 1,
        "batch_size": 8,
        "minibatch_size": 8,
        "critic_warmup_steps": 0,
        "kl_budget_nats": 99.0,
    }
    assert engine.run("ppo", "ppo", model=llama, prompts=prompts, reward_model=model, **short) in (0, 3)
    assert engine.events("ppo", "metrics")[0]["metrics"]["reward_model_std"] > 0


@pytest.mark.parametrize("ratings", [None, [1, 1]])
def test_a_criterion_that_nobody_judged_by_is_named(engine, llama, tmp_path, capsys, ratings):
    rows = [row | ({"criteria": {"kind": ratings}} if ratings else {}) for row in taste(8)]
    train = write_rows(tmp_path / "train.jsonl", rows)
    assert engine.run("reward", "out", model=llama, train_data=train, criteria=["kind"]) == 2
    assert f"criteria: no row of {train} prefers one completion by kind" in capsys.readouterr().err


# Replay


def numbered(count, name):
    return [Judgment((), (), f"{name}{number}") for number in range(count)]


def test_each_batch_takes_its_share_of_earlier_judgments_in_turn():
    config = Reward(model="-", train_data="-", replay_data="-", replay_share=0.25, batch_size=8, epochs=2)
    fresh, old = numbered(20, "new"), numbered(5, "old")
    assert steps_per_epoch(20, config) == 4  # 6, 6, 6 and 2 new ones
    batches = [[one.prompt for one in batch_of(fresh, old, step, config)] for step in range(10)]
    for epoch in (batches[:4], batches[4:8]):
        assert sorted(name for batch in epoch for name in batch if "new" in name) == sorted(
            one.prompt for one in fresh
        )
    assert all(sum("old" in name for name in batch) == 2 for batch in batches)
    counts = Counter(name for batch in batches for name in batch if "old" in name)
    assert set(counts.values()) == {4}  # 20 draws, none of the five left out
    again = [[one.prompt for one in batch_of(fresh, old, step, config)] for step in range(10)]
    assert batches == again
    other = config.model_copy(update={"seed": 1})
    fifty = numbered(50, "old")  # So many that two orders do not begin alike by chance.
    assert batch_of(fresh, fifty, 0, other)[-2:] != batch_of(fresh, fifty, 0, config)[-2:]
    without = Reward(model="-", train_data="-", batch_size=8)
    assert len(batch_of(fresh, [], 0, without)) == 8 and steps_per_epoch(20, without) == 3


def test_what_was_taught_earlier_is_kept_by_replay(engine, llama, tmp_path, capsys):
    """New preferences say nothing of g and h; those of earlier rounds do, and are held out on other prompts."""
    new = [{"prompt": "abcd"[number % 4], "chosen": "a", "rejected": "b"} for number in range(32)]
    earlier = [{"prompt": f"{'abcd'[number % 4]} a", "chosen": "g", "rejected": "h"} for number in range(16)]
    unseen = [{"prompt": "efgh"[number % 4], "chosen": "g", "rejected": "h"} for number in range(8)]
    files = {
        "train_data": write_rows(tmp_path / "train.jsonl", new),
        "replay_data": write_rows(tmp_path / "earlier.jsonl", earlier),
        "eval_data": write_rows(tmp_path / "eval.jsonl", unseen),
    }
    assert engine.run("reward", "out", model=llama, replay_share=0.5, **REWARD, **files) == 0
    assert engine.result("out")["accuracy"] == 1.0
    with_new = files | {"eval_data": write_rows(tmp_path / "both.jsonl", [*unseen, earlier[0]])}
    assert engine.run("reward", "refused", model=llama, replay_share=0.5, **REWARD, **with_new) == 2
    assert f"1 of its prompts are in {files['replay_data']} as well" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"replay_share": 0.5}, {"replay_data": "-"}])
def test_replay_data_and_share_go_together(changes):
    with pytest.raises(ValueError, match="give both, or neither"):
        Reward(model="-", train_data="-", **changes)


# The report


def test_accuracy_by_length_by_hand():
    right = [1.0, 0.0, 1.0, 1.0, 0.0, 0.5]
    thirds = accuracy_by_length(right, [-4, -3, 0, 1, 5, 9])
    assert thirds == [
        {"longer_by_from": -4, "longer_by_to": -3, "pairs": 2, "accuracy": 0.5},
        {"longer_by_from": 0, "longer_by_to": 1, "pairs": 2, "accuracy": 1.0},
        {"longer_by_from": 5, "longer_by_to": 9, "pairs": 2, "accuracy": 0.25},
    ]
    (one,) = accuracy_by_length([1.0, 0.0], [2, 2])
    assert one == {"longer_by_from": 2, "longer_by_to": 2, "pairs": 2, "accuracy": 0.5}


def test_the_chance_that_one_lot_is_above_another_by_hand():
    assert chance_above(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 3.0])) == 0.625  # 1, 0, 1, a half
    assert chance_above(torch.tensor([]), torch.tensor([1.0])) is None


def test_the_report_tells_strengths_ties_and_spread_apart(llama):
    config = config_of(llama, members=4)
    scorer = scorer_for(config)
    scorer.model.score, scorer.ensemble = scorer.model.score.split()
    rows = [
        PAIR | {"strength": 3}, PAIR | {"strength": 1}, {"prompt": "c", "chosen": "d", "rejected": "a b", "strength": 1},
        PAIR | {"strength": 0}, {"prompt": "a", "completions": ["d", "a b", "e"], "ranking": [[1], [0, 2]]},
    ]  # fmt: skip
    judgments = judgments_of(scorer, config, *rows)
    figures = describe_judgments(scorer, judgments, config)
    agrees = scorer.score_rows(list(judgments[0].rows), 100)
    first = float(agrees[0] > agrees[1])
    assert (figures["pairs"], figures["ties"], figures["prompts"]) == (5, 2, 2)
    by_strength = figures["accuracy_by_strength"]
    assert by_strength["3"] == {"pairs": 1, "accuracy": first}
    assert by_strength["1"] == {"pairs": 2, "accuracy": 0.5}
    assert by_strength["unknown"]["pairs"] == 2

    gaps = scorer.ensemble(torch.stack([_state(scorer, row) for row in judgments[0].rows]))
    spread = float((gaps[0] - gaps[1]).std(correction=0))
    only = describe_judgments(scorer, judgments[:1], config)
    assert only["spread_mean"] == pytest.approx(spread, rel=1e-4)
    assert only["spread_where_right" if first else "spread_where_wrong"] == only["spread_mean"]
    assert only["spread_warns"] is None


def _state(scorer, row):
    with torch.no_grad():
        ids = torch.tensor([row.prompt + row.completion])
        return scorer.model.base_model(input_ids=ids).last_hidden_state[0, -1]


def test_a_policy_for_which_the_reward_is_flat_is_warned_of(engine, llama, tmp_path):
    stubborn = make_llama()
    with torch.no_grad():
        stubborn.get_output_embeddings().weight.mul_(200)  # It says one and the same thing.
    flat = save(tmp_path / "stubborn", stubborn, make_tokenizer())
    train = write_rows(tmp_path / "train.jsonl", taste(24))
    found = {}
    for name, policy in (("flat", flat), ("lively", llama)):
        assert engine.run("reward", name, model=llama, train_data=train, policy_model=policy, **REWARD) == 0
        warnings = [event["text"] for event in engine.events(name, "message") if event["level"] == "warning"]
        found[name] = engine.result(name), any("nearly flat for this policy" in text for text in warnings)
    assert found["flat"][0]["spread_within_prompts"] < 0.2 and found["flat"][1]
    lively, warned = found["lively"]
    assert not warned
    assert lively["spread_on_policy"] == pytest.approx(lively["score_std_on_policy"], rel=0.2)


# Spans of prompts


def test_spans_that_do_not_overlap_share_no_prompt_and_leave_none_out():
    rows = [
        PreferenceRecord(prompt=f"p{n}", chosen="a", rejected=text) for n in range(400) for text in ("b", "c")
    ]
    low, high = within_span(rows, (0.0, 0.5)), within_span(rows, (0.5, 1.0))
    prompts = [{row.key for row in part} for part in (low, high)]
    assert not prompts[0] & prompts[1]
    assert len(low) + len(high) == len(rows)
    assert len(low) == 2 * len(prompts[0]), "both preferences of a prompt are on one side"
    assert 150 < len(prompts[0]) < 250
    assert within_span(rows[:100], (0.0, 0.5)) == [row for row in rows[:100] if row in low], "it is stable"
    assert within_span(rows, (0.0, 1.0)) == rows


def test_a_reward_model_learns_from_its_span_alone(engine, llama, tmp_path):
    rows = [{"prompt": f"c {'a ' * n}", "chosen": "a b", "rejected": "d"} for n in range(20)]
    data = write_rows(tmp_path / "all.jsonl", rows)
    for name, span in (("low", [0.0, 0.5]), ("high", [0.5, 1.0])):
        assert (
            engine.run("reward", name, **REWARD | {"train_data": data, "prompt_span": span}, model=llama) == 0
        )
    results = [json.loads((engine.folder / name / "result.json").read_text()) for name in ("low", "high")]
    counts = [result["train_pairs"] for result in results]
    assert sum(counts) == 20 and all(counts)


def test_a_span_without_any_row_is_refused_with_its_name(engine, llama, tmp_path, capsys):
    data = write_rows(tmp_path / "one.jsonl", [PAIR])
    (row,) = read_judgments(data)
    span = (0.0, 0.5) if not within_span([row], (0.0, 0.5)) else (0.5, 1.0)
    assert (
        engine.run("reward", "none", **REWARD | {"train_data": data, "prompt_span": span}, model=llama) == 2
    )
    assert "prompt_span: none of the 1 rows" in capsys.readouterr().err


@pytest.mark.parametrize("span", [(0.5, 0.5), (0.7, 0.2), (-0.1, 1.0), (0.0, 1.5)])
def test_a_span_is_two_shares_in_their_order(span):
    with pytest.raises(ValueError, match="prompt_span"):
        config_of("-", prompt_span=span)
