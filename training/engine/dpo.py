"""Direct preference optimisation: learn from preferences without a reward model and without sampling.

What a reward model would say is read from the policy itself: beta times how much likelier it makes a completion
than the reference does. The reference speaks once, before training, and is then dropped from memory.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.engine.batches import Encoder, by_token_budget
from training.engine.config import Dpo, EngineError
from training.engine.course import take_course
from training.engine.guards import GuardStop
from training.engine.intervals import mean_interval, share_interval
from training.engine.loading import end_tokens_of, load_policy, load_tokenizer, save_model
from training.engine.losses import dpo_loss, ipo_loss
from training.engine.networks import Policy, add_adapters, epoch_order, merge_adapters, same_tokenizer
from training.engine.records import PreferenceRecord, read_records
from training.engine.reference_pairs import (
    Preferences,
    distinct,
    encode,
    log_ratios,
    pair_logprobs,
    reference_logprobs,
)
from training.engine.runtime import settle
from training.engine.updates import Updater
from training.engine.workspace import Workspace


def train_with_dpo(config: Dpo, workspace: Workspace) -> dict[str, Any]:
    """Learn from preferences; leaves OUT/model and figures on preferences that were not learned from."""
    records = read_records(config.train_data, PreferenceRecord)
    held_out = read_records(config.eval_data, PreferenceRecord) if config.eval_data else []
    _check_records(records, held_out, config)
    runtime = settle(config, workspace.processes)
    encoder = _encoder(config)
    pairs, eval_pairs = encode(records, encoder), encode(held_out, encoder)
    encoder.report(workspace.events)
    pairs, eval_pairs = distinct(pairs, config, workspace), distinct(eval_pairs, config, workspace)
    if all(pair.tie for pair in pairs):
        raise EngineError(f"{config.train_data}: no preference is left to learn from")
    known = reference_logprobs([pairs, eval_pairs], config, workspace, runtime)
    preferences, unseen = Preferences(pairs, known[0]), Preferences(eval_pairs, known[1])

    policy = load_policy(config.model, config, runtime)
    add_adapters(policy.model, config)
    result: dict[str, Any] = {"train_pairs": len(pairs), "train_accuracy": None, "stopped_by": None}
    try:
        _train(policy, preferences, config, workspace)
    except GuardStop as stop:  # Before the first step: the policy is saved as it came.
        result["stopped_by"] = str(stop)
        workspace.events.message("warning", f"stopped after 0 steps: {stop}")
    learned = describe(policy, preferences, config)
    result["train_accuracy"] = learned["accuracy"]
    result |= describe(policy, unseen, config) if eval_pairs else {"pairs": 0, "prompts": 0, "accuracy": None}
    _warn_of_displacement(result if eval_pairs else learned, workspace)
    if config.lora_rank:
        merge_adapters(policy.model)
    save_model(policy, workspace.folder / "model")
    return result


def _check_records(
    records: Sequence[PreferenceRecord], held_out: Sequence[PreferenceRecord], config: Dpo
) -> None:
    if all(record.undecided for record in records):
        raise EngineError(f"{config.train_data}: every preference is a tie, there is nothing to learn")
    both = {record.key for record in records} & {record.key for record in held_out}
    if both:
        raise EngineError(
            f"{config.eval_data}: {len(both)} of its prompts are in {config.train_data} as well"
        )


def _encoder(config: Dpo) -> Encoder:
    """Raises EngineError where policy and reference read differently."""
    tokenizer = load_tokenizer(config.model)
    if config.reference_model and not same_tokenizer(tokenizer, load_tokenizer(config.reference_model)):
        raise EngineError(
            f"reference_model: {config.reference_model} has another tokenizer than {config.model}"
        )
    return Encoder(tokenizer, end_tokens_of(config.model, tokenizer), config)


def _train(policy: Policy, preferences: Preferences, config: Dpo, workspace: Workspace) -> None:
    count, size = len(preferences.pairs), config.batch_size
    per_epoch = math.ceil(count / size)

    def learn(updater: Updater, step: int, logs: bool) -> dict[str, float]:
        epoch, place = divmod(step, per_epoch)
        order = epoch_order(config.seed, epoch, count)
        chosen = preferences.take(order[place * size : (place + 1) * size])
        if not step and config.reference_model in (None, config.model):
            check_start(policy, chosen, config)
        return update(policy, updater, chosen, config)

    take_course("policy", policy.model, policy.runtime, per_epoch, learn, config, workspace)


def check_start(policy: Policy, preferences: Preferences, config: Dpo) -> None:
    """Before the first step a policy that is its own reference has margin 0, so the sigmoid loss is log 2."""
    ratios = log_ratios(policy, preferences, config)
    error = float((ratios / preferences.lengths).abs().max())
    if not error <= policy.runtime.tolerance:
        raise GuardStop(
            f"before the first step policy and reference differ by {error:.3g} nats per token, though they "
            "have the same weights"
        )


def update(policy: Policy, updater: Updater, preferences: Preferences, config: Dpo) -> dict[str, float]:
    """One step; losses are divided by the weight of the whole step, however it is cut into passes."""
    total = float(preferences.weights.sum())
    processes = policy.runtime.processes
    ratios = torch.zeros_like(preferences.reference)
    sums = Counter(loss=0.0, sft_loss=0.0)
    lengths = [2 * pair.length for pair in preferences.pairs]
    for group in by_token_budget(lengths, config.micro_batch_tokens, processes):
        some = preferences.take(group)
        logprobs = pair_logprobs(policy, some.pairs)
        found = logprobs - some.reference.to(logprobs.device)
        weights, ties = some.weights.to(found.device), some.ties.to(found.device)
        loss_of = dpo_loss if config.loss == "sigmoid" else ipo_loss
        losses = loss_of(some.margins(found, config), ties, config.beta, config.label_smoothing)
        # Of a tie neither answer is an example to follow.
        likelihood = torch.where(ties, 0.0, -logprobs[0] / some.lengths[0].to(found.device))
        loss = (weights * (losses + config.sft_coefficient * likelihood)).sum()
        (loss / total).backward()
        sums["loss"] += float(loss.detach())
        sums["sft_loss"] += float((weights * likelihood).sum().detach())
        ratios[:, group] = found.detach().cpu()
    sums = processes.count_up(sums)
    metrics = {name: value / total for name, value in sums.items()} | {"grad_norm": updater.step()}
    return metrics | _figures(preferences, processes.add_up(ratios), config)


def _figures(preferences: Preferences, ratios: Tensor, config: Dpo) -> dict[str, float]:
    """What the log says of a step; of ties, which have no right answer, nothing."""
    decided = ~preferences.ties
    if not decided.any():
        return {}
    margins = preferences.margins(ratios, config)[decided]
    return {
        "accuracy": float((margins > 0).float().mean()),
        "margin": config.beta * float(margins.mean()),
        "chosen_log_ratio": float(ratios[0][decided].mean()),
        "rejected_log_ratio": float(ratios[1][decided].mean()),
    }


def describe(policy: Policy, preferences: Preferences, config: Dpo) -> dict[str, Any]:
    """How well the implicit reward agrees with preferences, and what became of the answers' likelihood."""
    decided = preferences.take([place for place, pair in enumerate(preferences.pairs) if not pair.tie])
    prompts = [pair.prompt for pair in decided.pairs]
    figures: dict[str, Any] = {
        "pairs": len(prompts),
        "ties": len(preferences.pairs) - len(prompts),
        "prompts": len(set(prompts)),
        "accuracy": None,
        "accuracy_interval": None,
    }
    if not prompts:
        return figures
    ratios = log_ratios(policy, decided, config)
    margins = decided.margins(ratios, config)
    right = ((margins > 0).float() + 0.5 * (margins == 0).float()).tolist()
    figures["accuracy"], figures["accuracy_interval"] = share_interval(right, prompts)
    figures["margin"], figures["margin_interval"] = mean_interval((config.beta * margins).tolist(), prompts)
    for place, side in enumerate(("chosen", "rejected")):
        mean, interval = mean_interval(ratios[place].tolist(), prompts)
        figures |= {f"{side}_log_ratio": mean, f"{side}_log_ratio_interval": interval}
    return figures


def _warn_of_displacement(figures: dict[str, Any], workspace: Workspace) -> None:
    """Margins may also grow while both answers become less likely, and something else likelier.

    Source: Razin et al., Unintentional Unalignment, arXiv 2410.08847.
    """
    interval = figures.get("chosen_log_ratio_interval")
    if interval and interval[1] < 0:
        workspace.events.message(
            "warning",
            f"the chosen answers became less likely, by {-figures['chosen_log_ratio']:.2f} nats each: their "
            "likelihood went to answers that nobody judged (likelihood displacement, arXiv 2410.08847); give "
            "sft_coefficient, raise beta, or lower learning_rate",
        )
