"""The reward model: Bradley-Terry on preferences, then scores with mean 0 and deviation 1 on a policy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.engine.batches import Encoder, Tokens, by_token_budget, make_batch
from training.engine.checkpoints import Checkpoints, part, prefixed, restore
from training.engine.config import EngineError, Reward
from training.engine.evaluate import sample_records
from training.engine.generation import Sampling
from training.engine.intervals import share_interval
from training.engine.losses import centering_loss, preference_loss
from training.engine.networks import (
    Runtime,
    Scorer,
    add_adapters,
    describe_training,
    epoch_order,
    generator,
    learning_rate,
    load_policy,
    load_scorer,
    merge_adapters,
    reset_head,
    save_model,
    settle,
    trained_parameters,
)
from training.engine.records import PreferenceRecord, PromptRecord, read_records
from training.engine.updates import Updater
from training.engine.workspace import StopRequested, Workspace

MAX_REFUSED = 10
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Pair:
    """A preference as ids."""

    chosen: Tokens
    rejected: Tokens
    tie: bool
    weight: float  # the judgment's own, times its strength
    prompt: str  # what two preferences about the same prompt share

    @property
    def length(self) -> int:
        """Tokens of the longer side, to which both are padded."""
        return max(self.chosen.length, self.rejected.length)


def train_reward_model(config: Reward, workspace: Workspace) -> dict[str, Any]:
    """Learn from preferences; leaves OUT/model and figures on preferences that were not learned from."""
    records = read_records(config.train_data, PreferenceRecord)
    held_out = read_records(config.eval_data, PreferenceRecord) if config.eval_data else []
    prompts = read_records(config.prompts or config.train_data, PromptRecord)
    runtime = settle(config)
    scorer = load_scorer(config.model, config, runtime)
    # Seeded before the head exists; its deviation keeps first scores near 1. Source: lm-human-preference-details.
    reset_head(scorer, 1 / math.sqrt(scorer.model.score.in_features + 1), generator(config.seed, "head"))
    add_adapters(scorer.model, config)
    encoder = Encoder(scorer.tokenizer, scorer.end_tokens, config)
    pairs, eval_pairs = encode(records, encoder), encode(held_out, encoder)
    encoder.report(workspace.events)
    _check_apart(pairs, eval_pairs, config)

    _train(scorer, pairs, config, workspace)
    if config.lora_rank:
        merge_adapters(scorer.model)
    result: dict[str, Any] = {"train_pairs": len(pairs), "train_accuracy": None, "accuracy": None}
    result["train_accuracy"] = describe_pairs(scorer, pairs, config)["accuracy"]
    result |= describe_pairs(scorer, eval_pairs, config) if eval_pairs else {"pairs": 0, "prompts": 0}
    result |= _normalize(scorer, prompts, config, workspace, runtime)
    _save(scorer, workspace)
    return result


def encode(records: Sequence[PreferenceRecord], encoder: Encoder) -> list[Pair]:
    """Both answers of each preference, always with an end token, as the policy's will be scored."""
    prompts = encoder.prompts([record.messages for record in records])
    chosen = encoder.scored([record.chosen for record in records])
    rejected = encoder.scored([record.rejected for record in records])
    return [
        Pair(Tokens(prompt, one), Tokens(prompt, other), _is_tie(record), _weight(record), record.key)
        for record, prompt, one, other in zip(records, prompts, chosen, rejected, strict=True)
    ]


def _is_tie(record: PreferenceRecord) -> bool:
    return record.tie or record.strength == 0


def _weight(record: PreferenceRecord) -> float:
    """Strength scales the loss (HelpSteer2-Preference, arXiv 2410.01257); unknown and tied count once."""
    return record.weight * (record.strength or 1)


def _check_apart(pairs: Sequence[Pair], eval_pairs: Sequence[Pair], config: Reward) -> None:
    if not any(not pair.tie for pair in pairs):
        raise EngineError(f"{config.train_data}: every preference is a tie, there is nothing to learn")
    both = {pair.prompt for pair in pairs} & {pair.prompt for pair in eval_pairs}
    if both:
        raise EngineError(
            f"{config.eval_data}: {len(both)} of its prompts are in {config.train_data} as well"
        )


def _train(scorer: Scorer, pairs: list[Pair], config: Reward, workspace: Workspace) -> None:
    """All epochs, or what an interrupted run has left of them."""
    per_epoch = math.ceil(len(pairs) / config.batch_size)
    steps = per_epoch * config.epochs
    parameters = trained_parameters(scorer.model)
    rate = learning_rate(config.learning_rate, scorer.model, config)
    workspace.events.message("info", describe_training(scorer.model, parameters, rate, scorer.runtime))
    updater = Updater(parameters, rate, steps, config)
    checkpoints = Checkpoints(workspace.folder, workspace.events)
    start = 0
    if saved := checkpoints.load():
        restore(parameters, part("reward", saved.tensors))
        updater.load_state_dict(saved.state["updater"])
        start = saved.step
    for step in range(start, steps):
        epoch, place = divmod(step, per_epoch)
        order = epoch_order(config.seed, epoch, len(pairs))
        numbers = order[place * config.batch_size : (place + 1) * config.batch_size]
        metrics = update(scorer, updater, [pairs[number] for number in numbers], config)
        if updater.refused > MAX_REFUSED:
            raise EngineError(
                "the gradients are not finite: lower learning_rate, or check the data and model"
            )
        if (step + 1) % config.log_every_steps == 0 or step + 1 == steps:
            extra = {"epoch": (step + 1) / per_epoch, "learning_rate": updater.current_rate}
            workspace.events.metrics(step + 1, metrics | extra)
            workspace.events.progress("train", step + 1, steps)
        last = step + 1 == steps
        if last or workspace.stopping or (step + 1) % config.checkpoint_every_steps == 0:
            checkpoints.save(step + 1, prefixed("reward", parameters), {"updater": updater.state_dict()})
        if workspace.stopping:
            raise StopRequested


def update(scorer: Scorer, updater: Updater, pairs: Sequence[Pair], config: Reward) -> dict[str, float]:
    """One step; losses are divided by the weight of the whole step, however it is cut into passes."""
    total = sum(pair.weight for pair in pairs)
    loss_sum = right = decided = 0.0
    for group in by_token_budget([2 * pair.length for pair in pairs], config.micro_batch_tokens):
        part_pairs = [pairs[number] for number in group]
        chosen, rejected = _score_pairs(scorer, part_pairs)
        weight = torch.tensor([pair.weight for pair in part_pairs], device=chosen.device)
        tie = torch.tensor([pair.tie for pair in part_pairs], device=chosen.device)
        losses = preference_loss(chosen, rejected, tie)
        losses = losses + config.center_coefficient * centering_loss(chosen, rejected)
        loss = (weight * losses).sum()
        (loss / total).backward()
        loss_sum += float(loss.detach())
        right += float((chosen > rejected)[~tie].sum())
        decided += float((~tie).sum())
    metrics = {"loss": loss_sum / total, "grad_norm": updater.step()}
    return metrics | ({"accuracy": right / decided} if decided else {})


def _score_pairs(scorer: Scorer, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    scores = scorer.scores(make_batch(rows, scorer.runtime.device))
    return scores[: len(pairs)], scores[len(pairs) :]


def describe_pairs(scorer: Scorer, pairs: Sequence[Pair], config: Reward) -> dict[str, Any]:
    """How well scores agree with preferences; ties are counted and left out of what has a right answer."""
    decided = [pair for pair in pairs if not pair.tie]
    figures: dict[str, Any] = {
        "pairs": len(decided),
        "ties": len(pairs) - len(decided),
        "prompts": len({pair.prompt for pair in decided}),
        "accuracy": None,
        "accuracy_interval": None,
    }
    if not decided:
        return figures
    chosen = scorer.score_rows([pair.chosen for pair in decided], config.micro_batch_tokens)
    rejected = scorer.score_rows([pair.rejected for pair in decided], config.micro_batch_tokens)
    gaps = chosen - rejected
    right = ((gaps > 0).float() + 0.5 * (gaps == 0).float()).tolist()
    figures["accuracy"], figures["accuracy_interval"] = share_interval(
        right, [pair.prompt for pair in decided]
    )
    shorter = [one for one, pair in zip(right, decided, strict=True)
               if len(pair.chosen.completion) < len(pair.rejected.completion)]  # fmt: skip
    figures["accuracy_where_shorter_chosen"] = sum(shorter) / len(shorter) if shorter else None
    figures["calibration_error"] = calibration_error(torch.sigmoid(gaps))
    lengths = [len(row.completion) for pair in decided for row in (pair.chosen, pair.rejected)]
    scores = torch.stack([chosen, rejected], dim=1).flatten()
    figures["length_correlation"] = correlation(scores, torch.tensor(lengths, dtype=torch.float32))
    figures["swapped_agreement"] = _swapped_agreement(scorer, decided, gaps, config)
    return figures


def _swapped_agreement(scorer: Scorer, pairs: Sequence[Pair], gaps: Tensor, config: Reward) -> float:
    """Share of pairs with the same verdict when both answers share a pass, the rejected one first."""
    same = 0
    with torch.no_grad():
        for group in by_token_budget([2 * pair.length for pair in pairs], config.micro_batch_tokens):
            rows = [row for number in group for row in (pairs[number].rejected, pairs[number].chosen)]
            scores = scorer.scores(make_batch(rows, scorer.runtime.device)).cpu().view(-1, 2)
            same += int(((scores[:, 1] - scores[:, 0] > 0) == (gaps[group] > 0)).sum())
    return same / len(pairs)


def calibration_error(probabilities: Tensor) -> float:
    """Mean gap between how sure the model is of its preferred side and how often that is right.

    probabilities (P,): of the side that people chose. Source: Guo et al. 2017, expected calibration error.
    """
    sure = torch.maximum(probabilities, 1 - probabilities)  # 0.5 to 1
    right = (probabilities > 0.5).float()
    bins = ((sure - 0.5) * 2 * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    error = 0.0
    for number in range(CALIBRATION_BINS):
        inside = bins == number
        if inside.any():
            error += float(inside.float().mean() * (sure[inside].mean() - right[inside].mean()).abs())
    return error


def correlation(one: Tensor, other: Tensor) -> float | None:
    """Pearson's; None where one does not vary."""
    if len(one) < 2 or one.std() == 0 or other.std() == 0:
        return None
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def _normalize(
    scorer: Scorer, prompts: Sequence[PromptRecord], config: Reward, workspace: Workspace, runtime: Runtime
) -> dict[str, float]:
    """Give the reference policy's samples mean 0 and deviation 1, so that a KL price means the same for
    every reward model. The deviation goes into the head's weights, the mean into the model's config.
    """
    source = config.reference_model or config.model
    policy = load_policy(source, config, runtime)
    distinct = list({prompt.key: prompt for prompt in prompts}.values())
    count = min(len(distinct), config.normalization_samples)
    chosen = [distinct[number] for number in epoch_order(config.seed, 0, len(distinct))[:count]]
    how = Sampling(
        config.max_completion_tokens,
        (config.temperature,),
        samples_per_prompt=math.ceil(config.normalization_samples / count),
    )
    _, samples = sample_records(policy, chosen, how, config, workspace, "normalize")
    encoder = Encoder(scorer.tokenizer, scorer.end_tokens, config)
    ids = encoder.prompts([sample.messages for sample in samples])
    answers = encoder.scored([sample.completion for sample in samples])
    rows = [Tokens(prompt, answer) for prompt, answer in zip(ids, answers, strict=True)]
    scores = scorer.score_rows(rows, config.micro_batch_tokens)
    deviation, mean = float(scores.std()), float(scores.mean())
    if not deviation > 0 or not math.isfinite(deviation):
        raise EngineError(
            f"all samples of {source} get the same score: the reward model cannot tell them apart"
        )
    with torch.no_grad():
        scorer.model.score.weight.div_(deviation)
    scorer.mean = mean / deviation
    scorer.model.config.score_mean = scorer.mean
    scorer.model.config.score_scale = deviation
    return {"score_std_on_policy": deviation, "score_mean_on_policy": mean}


def _save(scorer: Scorer, workspace: Workspace) -> None:
    """Save so that transformers' own forward, which looks for the last id that is not pad, reads our place.

    Pad must then be no end token; where the tokenizer has no such pad, another special token is named.
    """
    tokenizer, config = scorer.tokenizer, scorer.model.config
    candidates = (tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token)
    ends = set(scorer.end_tokens)
    fit = (token for token in candidates if token and tokenizer.convert_tokens_to_ids(token) not in ends)
    if pad := next(fit, None):
        tokenizer.pad_token = pad
    config.get_text_config().pad_token_id = tokenizer.pad_token_id if pad else None
    save_model(scorer.model, tokenizer, workspace.folder / "model")
