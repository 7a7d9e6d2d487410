"""The reward model: Bradley-Terry on preferences, then scores with mean 0 and deviation 1 on a policy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training.engine.batches import Encoder, Tokens
from training.engine.config import EngineError, Reward
from training.engine.course import take_course
from training.engine.ensemble import EnsembleHead
from training.engine.evaluate import encode_answers, sample_records
from training.engine.fsdp import Spread
from training.engine.generation import Sampling
from training.engine.lines import lay_out
from training.engine.loading import load_policy, load_scorer, save_model
from training.engine.losses import centering_loss, preference_loss
from training.engine.networks import Scorer, epoch_order, generator, reset_head
from training.engine.preferences import (
    OVERALL,
    Judgment,
    bootstrap,
    encode,
    passes,
    preferences_of,
    within_span,
)
from training.engine.processes import Processes
from training.engine.records import (
    PreferenceRecord,
    PromptRecord,
    RankingRecord,
    read_judgments,
    read_records,
)
from training.engine.reward_report import describe_judgments
from training.engine.runtime import Runtime, settle
from training.engine.updates import Updater
from training.engine.workspace import Workspace

if TYPE_CHECKING:
    from training.engine.adapters import SharedBase

ADAPTER = "reward"

SAMPLES_OF_A_PROMPT = 4  # to measure how far scores of one prompt's samples differ
FLAT_SPREAD = 0.2  # between two samples of one prompt that is a preference of about 55 %

Records = Sequence[PreferenceRecord | RankingRecord]


def train_reward_model(config: Reward, workspace: Workspace) -> dict[str, Any]:
    """Learn from preferences; leaves OUT/model and figures on preferences that were not learned from."""
    records = _read(config.train_data, config)
    replayed = _read(config.replay_data, config) if config.replay_data else []
    held_out = read_judgments(config.eval_data) if config.eval_data else []
    _check_records(records, replayed, held_out, config)
    prompts = read_records(config.prompts or config.train_data, PromptRecord)
    runtime = settle(config, workspace.processes)
    scorer = load_scorer(config.model, config, runtime, labels=1 + len(config.criteria))
    prepare_head(scorer, config)
    shared = share_adapter(scorer, config) if config.lora_rank else None
    encoder = Encoder(scorer.tokenizer, scorer.end_tokens, config)
    fresh, old, unseen = (encode(rows, encoder, config.criteria) for rows in (records, replayed, held_out))
    encoder.report(workspace.events)

    fresh = bootstrap(fresh, config.members, config.seed, "train")
    old = bootstrap(old, config.members, config.seed, "replay")
    spread = _spread(scorer) if config.fsdp else None
    _train(scorer, fresh, old, config, workspace)
    if spread:
        scorer.model = spread.whole()
    add = shared.merge(ADAPTER) if shared else _nothing
    if isinstance(scorer.model.score, EnsembleHead):
        scorer.model.score, scorer.ensemble = scorer.model.score.split()
    result: dict[str, Any] = {"train_pairs": 0, "train_accuracy": None, "accuracy": None}
    learned = describe_judgments(scorer, fresh, config)
    result["train_pairs"] = learned["pairs"] + learned["ties"]
    result["train_accuracy"] = learned["accuracy"]
    result |= describe_judgments(scorer, unseen, config) if unseen else {"pairs": 0, "prompts": 0}
    result |= _normalize(scorer, prompts, config, workspace, runtime)
    result |= _look_at_policy(scorer, prompts, config, workspace, runtime)
    _save(scorer, config, workspace, add)
    return result


def _spread(scorer: Scorer) -> Spread:
    """Raises EngineError where there is nothing to spread over."""
    if scorer.runtime.processes.count == 1:
        raise EngineError("fsdp: needs several processes; start them with torchrun or accelerate launch")
    return Spread(scorer.model, scorer.runtime.processes)


def share_adapter(scorer: Scorer, config: Reward) -> SharedBase:
    """Freeze the trunk and put an adapter on it, which a policy's run can take up on the same trunk."""
    from training.engine.adapters import SharedBase, lora_settings

    base = SharedBase(scorer.model)
    base.add(ADAPTER, lora_settings(scorer.model, config), generator(config.seed, "adapter reward"))
    scorer.model.score.requires_grad_(True)
    return base


def _nothing(folder: Path) -> None:
    """Without adapters a model folder holds the model alone."""


def prepare_head(scorer: Scorer, config: Reward) -> None:
    """A head drawn from the seed: the score or several members of it, then the criteria.

    Seeded before anything else is drawn; its deviation keeps first scores near 1. Source:
    lm-human-preference-details.
    """
    features = scorer.model.score.in_features
    if config.members > 1:
        head = EnsembleHead(features, config.members, len(config.criteria))
        head.draw_priors(config.prior_scale, generator(config.seed, "priors"))
        scorer.model.score = head.to(scorer.runtime.device)
    reset_head(scorer, 1 / math.sqrt(features + 1), generator(config.seed, "head"))


def _read(path: str, config: Reward) -> Records:
    """The rows to learn from. Raises EngineError where `prompt_span` leaves none."""
    rows = read_judgments(path)
    if kept := within_span(rows, config.prompt_span):
        return kept
    raise EngineError(f"prompt_span: none of the {len(rows)} rows of {path} lies in it")


def _check_records(records: Records, replayed: Records, held_out: Records, config: Reward) -> None:
    """Raise EngineError for data from which nothing can be learned, or that would flatter the report."""
    decided = {
        one.label
        for record in (*records, *replayed)
        for one in preferences_of(record, config.criteria)
        if not one.tie
    }
    if OVERALL not in decided:
        raise EngineError(f"{config.train_data}: every preference is a tie, there is nothing to learn")
    for label, name in enumerate(config.criteria, 1):
        if label not in decided:
            raise EngineError(f"criteria: no row of {config.train_data} prefers one completion by {name}")
    unseen = {record.key for record in held_out}
    for source, rows in ((config.train_data, records), (config.replay_data, replayed)):
        if both := unseen & {record.key for record in rows}:
            raise EngineError(f"{config.eval_data}: {len(both)} of its prompts are in {source} as well")


def batch_of(fresh: Sequence[Judgment], old: Sequence[Judgment], step: int, config: Reward) -> list[Judgment]:
    """The judgments of a step: an epoch is one walk through `fresh`, `old` is walked through without end."""
    epoch, place = divmod(step, steps_per_epoch(len(fresh), config))
    count = config.batch_size - _replayed(config)
    order = epoch_order(config.seed, epoch, len(fresh))
    batch = [fresh[number] for number in order[place * count : (place + 1) * count]]
    for cursor in range(step * _replayed(config), (step + 1) * _replayed(config)):
        turn, place = divmod(cursor, len(old))
        batch.append(old[_replay_order(config.seed, turn, len(old))[place]])
    return batch


def steps_per_epoch(count: int, config: Reward) -> int:
    """Steps in which each of `count` new judgments is seen once."""
    return math.ceil(count / (config.batch_size - _replayed(config)))


def _replayed(config: Reward) -> int:
    """Judgments of each batch from `replay_data`; at least one stays new."""
    return min(round(config.batch_size * config.replay_share), config.batch_size - 1)


@lru_cache(maxsize=2)
def _replay_order(seed: int, turn: int, count: int) -> list[int]:
    return epoch_order(seed, turn, count, "replay")


def _train(
    scorer: Scorer, fresh: list[Judgment], old: list[Judgment], config: Reward, workspace: Workspace
) -> None:
    def learn(updater: Updater, step: int, logs: bool) -> dict[str, float]:
        return update(scorer, updater, batch_of(fresh, old, step, config), config)

    per_epoch = steps_per_epoch(len(fresh), config)
    take_course("reward", scorer.model, scorer.runtime, per_epoch, learn, config, workspace)


def update(
    scorer: Scorer, updater: Updater, judgments: Sequence[Judgment], config: Reward
) -> dict[str, float]:
    """One step; losses are divided by the weight of the whole step, however it is cut into passes."""
    total = sum(judgment.weight for judgment in judgments)
    sums: Counter[str] = Counter()
    processes = scorer.runtime.processes
    mine = passes(judgments, config.micro_batch_tokens, scorer.runtime.lines, processes)
    for group in mine:
        rows = [row for judgment in group for row in judgment.rows]
        scores = scorer.labels(lay_out(rows, scorer.runtime))  # (rows, members + criteria)
        places, tie, weights = _pairs(group, config, scores.device)
        chosen, rejected = scores[places[0]], scores[places[1]]  # (pairs, members + criteria)
        losses = preference_loss(chosen, rejected, tie[:, None])
        losses = losses + config.center_coefficient * centering_loss(chosen, rejected)
        loss = (weights * losses).sum()
        (loss / total).backward()
        overall = torch.tensor(
            [one.label == OVERALL and not one.tie for judgment in group for one in judgment.preferences],
            device=scores.device,
        )
        means = (chosen - rejected)[:, : config.members].mean(dim=1)
        right = float((means > 0)[overall].sum())
        sums.update(loss=float(loss.detach()), right=right, decided=float(overall.sum()))
    if config.fsdp:
        _keep_pace(scorer, judgments, len(mine), config)
    sums = processes.count_up(sums)
    metrics = {"loss": sums["loss"] / total, "grad_norm": updater.step()}
    return metrics | ({"accuracy": sums["right"] / sums["decided"]} if sums["decided"] else {})


def _keep_pace(scorer: Scorer, judgments: Sequence[Judgment], done: int, config: Reward) -> None:
    """Take part in the passes of processes that have more of them: a layer's weights are gathered by all at once."""
    count, lines = scorer.runtime.processes.count, scorer.runtime.lines
    shares = [Processes(rank, count) for rank in range(count)]
    most = max(len(passes(judgments, config.micro_batch_tokens, lines, share)) for share in shares)
    for _ in range(most - done):
        batch = lay_out([judgments[0].rows[0]], scorer.runtime)
        (0 * scorer.labels(batch).sum()).backward()


def _pairs(
    judgments: Sequence[Judgment], config: Reward, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Of P preferences: (2, P) rows of the pass, (P,) ties, and (P, members + criteria) weights.

    A member learns from a preference as often as its bootstrap sample holds it; the overall loss is the mean
    over the members. A criterion's label learns from its own preferences alone.
    """
    places: list[tuple[int, int]] = []
    ties: list[bool] = []
    weights: list[list[float]] = []
    begin, count = 0, len(config.criteria)
    for judgment in judgments:
        draws = judgment.draws or (1,) * config.members
        for one in judgment.preferences:
            places.append((begin + one.chosen, begin + one.rejected))
            ties.append(one.tie)
            if one.label == OVERALL:
                weights.append([one.weight * drawn / config.members for drawn in draws] + [0.0] * count)
            else:
                weights.append([0.0] * (config.members + count))
                weights[-1][config.members + one.label - 1] = one.weight * config.criteria_coefficient / count
        begin += len(judgment.rows)
    return (
        torch.tensor(places, device=device).T,
        torch.tensor(ties, device=device),
        torch.tensor(weights, device=device),
    )


def _normalize(
    scorer: Scorer, prompts: Sequence[PromptRecord], config: Reward, workspace: Workspace, runtime: Runtime
) -> dict[str, float]:
    """Give the reference policy's samples mean 0 and deviation 1, so that a KL price means the same for
    every reward model. The deviation goes into the head's weights, the mean into the model's config.
    """
    source = config.reference_model or config.model
    rows, _ = _samples(scorer, source, prompts, 1, "normalize", config, workspace, runtime)
    readings = scorer.read_rows(rows, config.micro_batch_tokens)
    scores = readings.labels[:, 0]
    deviation, mean = float(scores.std()), float(scores.mean())
    if not deviation > 0 or not math.isfinite(deviation):
        raise EngineError(
            f"all samples of {source} get the same score: the reward model cannot tell them apart"
        )
    with torch.no_grad():
        scorer.model.score.weight[0].div_(deviation)  # A criterion's label keeps its own scale.
    scorer.mean = mean / deviation
    scorer.model.config.score_mean = scorer.mean
    scorer.model.config.score_scale = deviation
    figures = {"score_std_on_policy": deviation, "score_mean_on_policy": mean}
    if scorer.ensemble:
        means = readings.members.mean(dim=0)
        scorer.ensemble.normalize(deviation, means / deviation)
        spreads = ((readings.members - means) / deviation).std(dim=1, correction=0)
        figures["ensemble_spread_on_policy"] = float(spreads.mean())
    return figures


def _look_at_policy(
    scorer: Scorer, prompts: Sequence[PromptRecord], config: Reward, workspace: Workspace, runtime: Runtime
) -> dict[str, float | None]:
    """How far scores differ over samples of the policy that is to be trained: where they do not, it cannot learn.

    In natural units, as `score_std_on_policy`: a difference of 1 is a preference of 73 %. Source: Razin et
    al. 2025, arXiv 2503.15477: a reward that varies little under a policy gives it a flat objective.
    """
    if not config.policy_model:
        return {"spread_on_policy": None, "spread_within_prompts": None}
    rows, per_prompt = _samples(
        scorer, config.policy_model, prompts, SAMPLES_OF_A_PROMPT, "policy", config, workspace, runtime
    )
    scores = scorer.score_rows(rows, config.micro_batch_tokens) * scorer.model.config.score_scale
    within = float(scores.view(-1, per_prompt).var(dim=1).mean().sqrt())
    if within < FLAT_SPREAD:
        workspace.events.message(
            "warning",
            f"scores of the same prompt's samples of {config.policy_model} differ by only {within:.2g}: the "
            "reward is nearly flat for this policy, which will learn slowly from it",
        )
    return {"spread_on_policy": float(scores.std()), "spread_within_prompts": within}


def _samples(
    scorer: Scorer,
    source: str,
    prompts: Sequence[PromptRecord],
    per_prompt: int,
    phase: str,
    config: Reward,
    workspace: Workspace,
    runtime: Runtime,
) -> tuple[list[Tokens], int]:
    """At least `normalization_samples` of a policy, as the reward model reads them, and how many of each prompt."""
    policy = load_policy(source, config, runtime)
    distinct = list({prompt.key: prompt for prompt in prompts}.values())
    count = min(len(distinct), math.ceil(config.normalization_samples / per_prompt))
    chosen = [distinct[number] for number in epoch_order(config.seed, 0, len(distinct))[:count]]
    how = Sampling(
        config.max_completion_tokens,
        (config.temperature,),
        samples_per_prompt=math.ceil(config.normalization_samples / count),
    )
    _, samples = sample_records(policy, chosen, how, config, workspace, phase)
    encoder = Encoder(scorer.tokenizer, scorer.end_tokens, config)
    rows = encode_answers(encoder, samples, [sample.completion for sample in samples])
    return rows, how.samples_per_prompt


def _save(scorer: Scorer, config: Reward, workspace: Workspace, add: Callable[[Path], None]) -> None:
    """Save so that transformers' own forward, which looks for the last id that is not pad, reads our place.

    Pad must then be no end token; where the tokenizer has no such pad, another special token is named.
    """
    tokenizer, saved = scorer.tokenizer, scorer.model.config
    candidates = (tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token)
    ends = set(scorer.end_tokens)
    fit = (token for token in candidates if token and tokenizer.convert_tokens_to_ids(token) not in ends)
    if pad := next(fit, None):
        tokenizer.pad_token = pad
    saved.get_text_config().pad_token_id = tokenizer.pad_token_id if pad else None
    if config.criteria:
        saved.id2label = dict(enumerate(("overall", *config.criteria)))
        saved.label2id = {name: label for label, name in saved.id2label.items()}
    save_model(scorer, workspace.folder / "model", add)
