"""Direct preference optimisation: its losses by hand, its gradient by a plain loop, and what it teaches."""

import json
import math

import pytest
import torch

from tests.engine.conftest import LIMITS, policy_of, write_rows
from tests.engine.test_training import share_of_a, taste
from training.engine import dpo
from training.engine.batches import Tokens
from training.engine.config import Dpo
from training.engine.guards import GuardStop
from training.engine.losses import dpo_loss, ipo_loss
from training.engine.networks import trained_parameters
from training.engine.reference_pairs import Pair, Preferences, completion_logprobs, log_ratios
from training.engine.updates import Updater

DPO = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}
TOLD = [f"{one} {other}" for one in "abcd" for other in "efgh"] + list("abcdefgh")


def config_of(folder, **changes):
    return Dpo(model=folder, train_data="-", **LIMITS | changes)


def make_pairs(ties):
    rows = [([4, 5, 0], [6, 0]), ([7, 0], [4, 5, 6, 7, 0]), ([8, 9, 0], [10, 11, 0]), ([4, 0], [5, 0])]
    return [
        Pair(Tokens([8], one), Tokens([8], other), ties and number == 1, 1.0 + number, "p")
        for number, (one, other) in enumerate(rows)
    ]


def preferences_of(folder, ties=False):
    """Four ragged pairs of weights 1 to 4 with what the untrained policy says of them."""
    pairs = make_pairs(ties)
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    return Preferences(
        pairs, completion_logprobs(policy_of(folder), rows, 1000, lambda done: None).view(2, -1)
    )


def moved_policy(folder):
    """A policy that has learned something else than its reference knows."""
    policy = policy_of(folder)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trained_parameters(policy.model).values():
            weight.add_(torch.randn(weight.shape, generator=random) * 0.02)
    return policy


def gradients_of(policy, preferences, config, monkeypatch):
    """What one step's metrics and gradients are, before anything is clipped or applied."""
    weights = trained_parameters(policy.model)
    updater = Updater(weights, 0.0, 10, config)
    monkeypatch.setattr(updater, "drop", lambda: None)  # Keep the gradients to look at.
    metrics = dpo.update(policy, updater, preferences, config)
    return metrics, {name: weight.grad.clone() for name, weight in weights.items()}


# Losses by hand


def test_the_loss_of_a_margin_by_hand():
    margins = torch.tensor([0.0, 10.0, -10.0])
    decided = torch.zeros(3, dtype=torch.bool)
    # -log sigmoid(0.1 * 10) = log(1 + 1/e) = 0.31326; the other way round 1.31326.
    assert dpo_loss(margins, decided, 0.1, 0.0).tolist() == pytest.approx([math.log(2), 0.313262, 1.313262])
    # A quarter of the labels swapped: 0.75 * 0.313262 + 0.25 * 1.313262 = 0.563262.
    assert dpo_loss(margins, decided, 0.1, 0.25).tolist() == pytest.approx([math.log(2), 0.563262, 1.063262])
    # A tie is half of each, whatever the smoothing: 0.813262.
    assert dpo_loss(margins, ~decided, 0.1, 0.25).tolist() == pytest.approx([math.log(2), 0.813262, 0.813262])


def test_the_ipo_loss_of_a_margin_by_hand():
    margins = torch.tensor([0.0, 5.0, 7.0])
    decided = torch.zeros(3, dtype=torch.bool)
    # The target at beta 0.1 is 1 / 0.2 = 5.
    assert ipo_loss(margins, decided, 0.1, 0.0).tolist() == pytest.approx([25.0, 0.0, 4.0])
    # A quarter swapped, and a tie: (margin + 5)^2 the other way round is 25, 100, 144.
    assert ipo_loss(margins, decided, 0.1, 0.25).tolist() == pytest.approx([25.0, 25.0, 39.0])
    assert ipo_loss(margins, ~decided, 0.1, 0.0).tolist() == pytest.approx([25.0, 50.0, 74.0])


@pytest.mark.parametrize("loss", [dpo_loss, ipo_loss])
def test_ties_have_no_gradient_at_equal_margins_and_pull_unequal_ones_together(loss):
    margins = torch.tensor([0.0, 2.0, -2.0], requires_grad=True)
    loss(margins, torch.ones(3, dtype=torch.bool), 0.3, 0.1).sum().backward()
    zero, above, below = margins.grad.tolist()
    assert zero == 0.0 and above > 0 and below == -above


def test_an_enormous_margin_stays_finite():
    margins = torch.tensor([1e4, -1e4], requires_grad=True)
    losses = dpo_loss(margins, torch.zeros(2, dtype=torch.bool), 0.5, 0.1)
    losses.sum().backward()
    assert losses.isfinite().all() and margins.grad.isfinite().all()


def test_a_margin_is_of_whole_completions_and_for_ipo_of_their_mean_tokens(llama):
    preferences = preferences_of(llama).take([1])  # completions of 2 and of 5 tokens
    ratios = torch.tensor([[3.0], [-5.0]])
    assert preferences.margins(ratios, config_of(llama)).tolist() == [8.0]
    assert preferences.margins(ratios, config_of(llama, loss="ipo")).tolist() == [2.5]


# The start


@pytest.mark.parametrize("name", ["llama", "pad_is_end", "gpt2"])
@pytest.mark.parametrize(("loss", "expected"), [("sigmoid", math.log(2)), ("ipo", 25.0)])
def test_a_policy_that_is_its_reference_starts_at_margin_0(name, loss, expected, request, monkeypatch):
    folder = request.getfixturevalue(name)
    config = config_of(folder, loss=loss)
    metrics, _ = gradients_of(policy_of(folder), preferences_of(folder), config, monkeypatch)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    for figure in ("margin", "chosen_log_ratio", "rejected_log_ratio"):
        assert metrics[figure] == pytest.approx(0.0, abs=1e-5)


def test_a_policy_that_should_be_its_reference_and_is_not_is_found_out(llama):
    config, preferences = config_of(llama), preferences_of(llama)
    dpo.check_start(policy_of(llama), preferences, config)
    with pytest.raises(GuardStop, match=r"differ by .* nats per token, though they have the same weights"):
        dpo.check_start(moved_policy(llama), preferences, config)


def test_a_wrong_start_ends_the_run_with_3_and_leaves_the_model_as_it_came(
    engine, llama, tmp_path, monkeypatch
):
    known = dpo.reference_logprobs
    monkeypatch.setattr(dpo, "reference_logprobs", lambda *given: [one + 1 for one in known(*given)])
    data = write_rows(tmp_path / "train.jsonl", taste(16))
    assert engine.run("dpo", "out", model=llama, train_data=data, **DPO) == 3
    assert "before the first step" in engine.result("out")["stopped_by"]
    assert (engine.folder / "out" / "model" / "model.safetensors").exists()


# Gradients


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_the_gradient_is_that_of_a_plain_loop(llama, loss, monkeypatch):
    config = config_of(llama, loss=loss, beta=0.3, label_smoothing=0.1, sft_coefficient=0.5)
    policy, reference, preferences = moved_policy(llama), policy_of(llama), preferences_of(llama, ties=True)
    metrics, ours = gradients_of(
        policy, preferences, config.model_copy(update={"max_grad_norm": 1e9}), monkeypatch
    )

    def logprobs(model, row):
        found = []
        for place, token in enumerate(row.completion):
            logits = model(input_ids=torch.tensor([[*row.prompt, *row.completion[:place]]])).logits[0, -1]
            found.append(logits[token] - torch.logsumexp(logits, 0))
        return torch.stack(found)

    total = weight_sum = 0.0
    for pair in preferences.pairs:
        gains = []
        for row in (pair.chosen, pair.rejected):
            with torch.no_grad():
                known = logprobs(reference.model, row)
            gain = logprobs(policy.model, row) - known
            gains.append(gain.mean() if loss == "ipo" else gain.sum())
        gap = gains[0] - gains[1]
        wrong = 0.5 if pair.tie else 0.1
        if loss == "ipo":
            value = (1 - wrong) * (gap - 1 / 0.6) ** 2 + wrong * (gap + 1 / 0.6) ** 2
        else:
            value = (1 - wrong) * torch.log1p(torch.exp(-0.3 * gap)) + wrong * torch.log1p(
                torch.exp(0.3 * gap)
            )
        if not pair.tie:
            value = value - 0.5 * logprobs(policy.model, pair.chosen).mean()
        total, weight_sum = total + pair.weight * value, weight_sum + pair.weight
    for weight in trained_parameters(policy.model).values():
        weight.grad = None
    (total / weight_sum).backward()
    assert metrics["loss"] == pytest.approx(float(total.detach()) / weight_sum, rel=1e-4)
    theirs = {name: weight.grad for name, weight in trained_parameters(policy.model).items()}
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_gradients_do_not_depend_on_passes_or_on_the_order_of_pairs(llama, monkeypatch):
    found = []
    for budget, order in ((1000, [0, 1, 2, 3]), (20, [0, 1, 2, 3]), (20, [3, 1, 0, 2])):
        config = config_of(llama, micro_batch_tokens=budget, max_grad_norm=1e9, sft_coefficient=0.2)
        preferences = preferences_of(llama, ties=True).take(order)
        found.append(gradients_of(moved_policy(llama), preferences, config, monkeypatch))
    for metrics, others in found[1:]:
        assert metrics == pytest.approx(found[0][0], rel=1e-4)
        torch.testing.assert_close(others, found[0][1], atol=1e-6, rtol=1e-4)


def test_a_tie_teaches_nothing_at_equal_margins_not_even_its_first_answer(llama, monkeypatch):
    config = config_of(llama, sft_coefficient=1.0)
    _, found = gradients_of(policy_of(llama), preferences_of(llama, ties=True).take([1]), config, monkeypatch)
    assert all(float(gradient.abs().max()) < 1e-6 for gradient in found.values())


def test_a_weight_of_two_is_the_pair_given_twice(llama, monkeypatch):
    preferences, config = preferences_of(llama), config_of(llama)
    heavy, light = preferences.take([0, 1]), preferences.take([0, 1, 1])  # weights 1 and 2
    light.pairs[1:] = [type(pair)(**{**vars(pair), "weight": 1.0}) for pair in light.pairs[1:]]
    one, _ = gradients_of(moved_policy(llama), heavy, config, monkeypatch)
    other, _ = gradients_of(moved_policy(llama), light, config, monkeypatch)
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


# Broken numbers and bad data


def test_a_loss_that_is_no_number_changes_nothing(llama):
    config, policy, preferences = config_of(llama), policy_of(llama), preferences_of(llama)
    weights = trained_parameters(policy.model)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    updater = Updater(weights, 1e-3, 10, config)
    preferences.reference[0, 2] = float("nan")
    dpo.update(policy, updater, preferences, config)
    assert updater.refused == 1
    assert all(torch.equal(before[name], weight) for name, weight in weights.items())


def test_a_model_that_only_says_nan_ends_the_run_with_a_sentence(
    engine, tmp_path, llama, capsys, monkeypatch
):
    monkeypatch.setattr(
        "training.engine.reference_pairs.completion_logprobs",
        lambda _, rows, *more: torch.full((len(rows),), math.nan),
    )
    data = write_rows(tmp_path / "train.jsonl", taste(8))
    assert engine.run("dpo", "out", model=llama, train_data=data) == 2
    assert "not a finite number" in capsys.readouterr().err


def test_prompts_on_both_sides_are_refused(engine, llama, tmp_path, capsys):
    data = write_rows(tmp_path / "train.jsonl", taste(8))
    assert engine.run("dpo", "out", model=llama, train_data=data, eval_data=data) == 2
    assert "8 of its prompts are in" in capsys.readouterr().err


@pytest.mark.parametrize("mark", [{"tie": True}, {"strength": 0}])
def test_ties_alone_are_refused(engine, llama, tmp_path, capsys, mark):
    data = write_rows(tmp_path / "train.jsonl", [row | mark for row in taste(8)])
    assert engine.run("dpo", "out", model=llama, train_data=data) == 2
    assert "every preference is a tie" in capsys.readouterr().err


def test_pairs_that_are_the_same_once_cut_are_skipped_and_counted(engine, llama, tmp_path, capsys):
    same = {"prompt": "a", "chosen": "b c d e f g h a b", "rejected": "b c d e f g h a c"}
    data = write_rows(tmp_path / "train.jsonl", [same, *taste(8)])
    assert engine.run("dpo", "out", model=llama, train_data=data, **DPO) == 0
    assert engine.result("out")["train_pairs"] == 8
    said = [event["text"] for event in engine.events("out", "message")]
    assert any(text.startswith("1 preferences were skipped: within 8 tokens") for text in said)
    assert engine.run("dpo", "none", model=llama, train_data=write_rows(tmp_path / "same.jsonl", [same])) == 2
    assert "no preference is left" in capsys.readouterr().err


def test_a_reference_with_another_tokenizer_is_refused(engine, llama, tmp_path, capsys):
    from tests.engine.conftest import make_llama, make_tokenizer, save

    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["more"])
    other = save(tmp_path / "other", make_llama(vocab_size=13), tokenizer)
    data = write_rows(tmp_path / "train.jsonl", taste(8))
    assert engine.run("dpo", "out", model=llama, reference_model=other, train_data=data) == 2
    assert "has another tokenizer" in capsys.readouterr().err


# Learning


def sampled_taste(engine, llama, tmp_path, name, texts, seed):
    """Preferences of people who want `a`, on pairs that the policy itself wrote."""
    asked = write_rows(tmp_path / f"{name}-prompts.jsonl", [{"prompt": text} for text in texts])
    engine.run("generate", name, model=llama, prompts=asked, samples_per_prompt=64, seed=seed)
    answers = {}
    for line in (engine.folder / name / "completions.jsonl").open():
        record = json.loads(line)
        answers.setdefault(record["prompt"][0]["content"], []).append(record["completion"])
    rows = []
    for prompt, texts in answers.items():
        for one, other in zip(texts[::2], texts[1::2], strict=True):
            low, high = sorted((one, other), key=lambda text: text.split().count("a"))
            if low and low.split().count("a") < high.split().count("a"):
                rows.append({"prompt": prompt, "chosen": high, "rejected": low})
    return write_rows(tmp_path / f"{name}.jsonl", rows)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_raises_the_share_of_the_wanted_word(engine, llama, prompts, tmp_path, seed, loss):
    data = {
        "train_data": sampled_taste(engine, llama, tmp_path, "train", TOLD, seed),
        "eval_data": write_rows(tmp_path / "eval.jsonl", taste(24, "efgh")),
    }
    settings = DPO | {"epochs": 4, "loss": loss}
    assert engine.run("dpo", "out", model=llama, seed=seed, **data, **settings) == 0
    result = engine.result("out")
    assert result["accuracy"] > 0.9 and result["prompts"] == 4
    low, high = result["accuracy_interval"]
    assert 0.4 < low < high <= 1.0
    assert result["margin"] > 0 and result["chosen_log_ratio"] > result["rejected_log_ratio"]
    common = {"prompts": prompts, "samples_per_prompt": 40}
    engine.run("generate", "before", model=llama, **common)
    engine.run("generate", "after", model=str(engine.folder / "out" / "model"), **common)
    assert share_of_a(engine, "after") > share_of_a(engine, "before") + 0.15
    first, *_, last = (event["metrics"] for event in engine.events("out", "metrics"))
    assert last["loss"] < first["loss"] and last["accuracy"] > 0.9
    assert {"margin", "chosen_log_ratio", "rejected_log_ratio", "sft_loss", "grad_norm", "learning_rate",
            "epoch"} <= last.keys()  # fmt: skip


def test_a_higher_beta_stays_nearer_to_the_reference(engine, llama, tmp_path):
    data = write_rows(tmp_path / "train.jsonl", taste(48))
    moved = {}
    for beta in (0.05, 5.0):
        settings = DPO | {"beta": beta, "epochs": 6}
        engine.run("dpo", f"beta-{beta}", model=llama, train_data=data, eval_data=None, **settings)
        last = engine.events(f"beta-{beta}", "metrics")[-1]["metrics"]
        moved[beta] = last["chosen_log_ratio"] - last["rejected_log_ratio"]
    assert moved[5.0] < moved[0.05] / 2


def test_adapters_learn_and_are_merged(engine, llama, tmp_path):
    data = write_rows(tmp_path / "train.jsonl", taste(48, "abcd"))
    held_out = write_rows(tmp_path / "eval.jsonl", taste(24, "efgh"))
    settings = DPO | {"lora_rank": 4, "learning_rate": 1e-2}
    assert engine.run("dpo", "out", model=llama, train_data=data, eval_data=held_out, **settings) == 0
    result = engine.result("out")
    assert result["accuracy"] > 0.9 and result["stopped_by"] is None
    config = config_of(llama)
    pairs = preferences_of(llama)
    assert float(log_ratios(policy_of(str(engine.folder / "out" / "model")), pairs, config).abs().max()) > 0.1


def messages(engine, out):
    return [event["text"] for event in engine.events(out, "message") if event["level"] == "warning"]


def test_chosen_answers_that_become_less_likely_are_reported_and_an_sft_term_keeps_them(
    engine, llama, tmp_path
):
    data = sampled_taste(engine, llama, tmp_path, "train", TOLD, 1)
    settings = DPO | {"epochs": 3}
    assert engine.run("dpo", "out", model=llama, train_data=data, **settings) == 0
    assert engine.run("dpo", "kept", model=llama, train_data=data, **settings | {"sft_coefficient": 2.0}) == 0
    assert any("likelihood displacement" in text for text in messages(engine, "out"))
    assert not any("likelihood displacement" in text for text in messages(engine, "kept"))


def test_the_warning_of_displacement_needs_more_than_chance():
    heard = []
    events = type("Events", (), {"message": lambda self, level, text: heard.append((level, text))})()
    workspace = type("Workspace", (), {"events": events})()
    dpo._warn_of_displacement({"chosen_log_ratio": -1.5, "chosen_log_ratio_interval": [-3.1, 0.1]}, workspace)
    dpo._warn_of_displacement({"pairs": 0}, workspace)
    assert not heard
    dpo._warn_of_displacement(
        {"chosen_log_ratio": -1.5, "chosen_log_ratio_interval": [-2.0, -1.0]}, workspace
    )
    ((level, text),) = heard
    assert level == "warning" and "less likely, by 1.50 nats each" in text


# Interrupted


@pytest.fixture
def case(llama, other_llama, tmp_path):
    return {
        "model": llama,
        "reference_model": other_llama,
        "train_data": write_rows(tmp_path / "train.jsonl", taste(48, "abcd")),
        "eval_data": write_rows(tmp_path / "eval.jsonl", taste(24, "efgh")),
        "checkpoint_every_steps": 3,
        **DPO,
        "epochs": 4,
    }


def test_asked_to_stop_it_saves_and_continues_without_the_reference(engine, case, monkeypatch):
    case = case | {"checkpoint_every_steps": 1000}  # Only the stop itself can have saved anything.
    assert engine.run("dpo", "whole", **case) == 0
    assert engine.stop("dpo", "cut", 2, **case) == 143

    def refuse(*given):
        raise AssertionError("the reference was loaded again")

    monkeypatch.setattr("training.engine.reference_pairs.load_policy", refuse)
    assert engine.run("dpo", "cut", **case) == 0
    assert engine.weights("cut") == engine.weights("whole")
    assert engine.result("cut") == engine.result("whole")


def test_the_reference_is_another_model_where_one_is_named(engine, case):
    assert engine.run("dpo", "out", **case) == 0
    assert engine.run("dpo", "own", **case | {"reference_model": None}) == 0
    first = [engine.events(out, "metrics")[0]["metrics"] for out in ("out", "own")]
    assert abs(first[0]["chosen_log_ratio"]) > 0.1 and first[1]["chosen_log_ratio"] == pytest.approx(
        0, abs=1e-5
    )
    assert first[1]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert json.loads((engine.folder / "out" / "config.json").read_text())["beta"] == 0.1
