"""Supervised fine-tuning: the likelihood of the demonstrations' completions, token by token."""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from training.engine.batches import Encoder, Tokens, row_sums, token_batches
from training.engine.checkpoints import Checkpoints, part, prefixed, restore
from training.engine.config import EngineError, Sft
from training.engine.networks import (
    Policy,
    add_adapters,
    describe_training,
    epoch_order,
    learning_rate,
    load_policy,
    merge_adapters,
    save_model,
    settle,
    trained_parameters,
)
from training.engine.records import DemonstrationRecord, read_records
from training.engine.tensors import token_logprobs
from training.engine.updates import Updater
from training.engine.workspace import StopRequested, Workspace

POOL = 16  # Batches whose rows are sorted by length together: little padding, order still random.
MAX_REFUSED = 10


def train_policy(config: Sft, workspace: Workspace) -> dict[str, Any]:
    """Learn from demonstrations; leaves OUT/model."""
    records = read_records(config.train_data, DemonstrationRecord)
    held_out = read_records(config.eval_data, DemonstrationRecord) if config.eval_data else []
    runtime = settle(config)
    policy = load_policy(config.model, config, runtime)
    add_adapters(policy.model, config)
    encoder = Encoder(policy.tokenizer, policy.end_tokens, config)
    rows, eval_rows = encode(records, encoder), encode(held_out, encoder)
    encoder.report(workspace.events)
    weights = [record.weight for record in records]

    per_epoch = math.ceil(len(rows) / config.batch_size)
    steps = per_epoch * config.epochs
    parameters = trained_parameters(policy.model)
    rate = learning_rate(config.learning_rate, policy.model, config)
    workspace.events.message("info", describe_training(policy.model, parameters, rate, runtime))
    updater = Updater(parameters, rate, steps, config)
    checkpoints = Checkpoints(workspace.folder, workspace.events)
    start = 0
    if saved := checkpoints.load():
        restore(parameters, part("policy", saved.tensors))
        updater.load_state_dict(saved.state["updater"])
        start = saved.step

    def save(step: int) -> None:
        checkpoints.save(step, prefixed("policy", parameters), {"updater": updater.state_dict()})

    loss_sum = token_sum = 0.0
    batches: list[list[int]] = []
    since = time.monotonic()
    for step in range(start, steps):
        epoch, place = divmod(step, per_epoch)
        if not place or step == start:
            batches = length_batches([row.length for row in rows], config, epoch)
        numbers = batches[place]
        loss, tokens, norm = _update(policy, updater, [rows[n] for n in numbers], [weights[n] for n in numbers],
                                     config)  # fmt: skip
        if updater.refused > MAX_REFUSED:
            raise EngineError(
                "the gradients are not finite: lower learning_rate, or check the data and model"
            )
        loss_sum, token_sum = loss_sum + loss, token_sum + tokens
        if (step + 1) % config.log_every_steps == 0 or step + 1 == steps:
            now = time.monotonic()
            metrics = {
                "loss": loss_sum / max(token_sum, 1e-9),
                "grad_norm": norm,
                "learning_rate": updater.current_rate,
                "epoch": (step + 1) / per_epoch,
                "tokens_per_second": token_sum / max(now - since, 1e-9),
            }
            loss_sum, token_sum, since = 0.0, 0.0, now
            if eval_rows and (step + 1) % per_epoch == 0:
                metrics["eval_loss"] = mean_loss(policy, eval_rows, config)
            workspace.events.metrics(step + 1, metrics)
            workspace.events.progress("train", step + 1, steps)
        if workspace.stopping:
            save(step + 1)
            raise StopRequested
        if (step + 1) % config.checkpoint_every_steps == 0 or step + 1 == steps:
            save(step + 1)

    result: dict[str, Any] = {"steps": steps, "demonstrations": len(rows), "loss": None, "eval_loss": None}
    result["loss"] = mean_loss(policy, rows[:512], config)
    if eval_rows:
        result["eval_loss"] = mean_loss(policy, eval_rows, config)
    if config.lora_rank:
        merge_adapters(policy.model)
    save_model(policy.model, policy.tokenizer, workspace.folder / "model")
    return result


def encode(records: Sequence[DemonstrationRecord], encoder: Encoder) -> list[Tokens]:
    """Ids of demonstrations, each prompt encoded once."""
    prompts = {record.key: record.messages for record in records}
    ids = dict(zip(prompts, encoder.prompts(list(prompts.values())), strict=True))
    completions = encoder.completions([record.completion for record in records])
    return [Tokens(ids[record.key], end) for record, end in zip(records, completions, strict=True)]


def length_batches(lengths: Sequence[int], config: Sft, epoch: int) -> list[list[int]]:
    """An epoch's row numbers, a list per step: random pools, sorted by length, cut, and shuffled again."""
    order = epoch_order(config.seed, epoch, len(lengths))
    pool = config.batch_size * POOL
    batches = []
    for begin in range(0, len(order), pool):
        ordered = sorted(order[begin : begin + pool], key=lambda row: lengths[row])
        batches += [ordered[i : i + config.batch_size] for i in range(0, len(ordered), config.batch_size)]
    return [batches[place] for place in epoch_order(config.seed, -1 - epoch, len(batches))]


def _update(
    policy: Policy, updater: Updater, rows: list[Tokens], weights: list[float], config: Sft
) -> tuple[float, float, float]:
    """One step; returns the sum of the loss, the weight of the tokens it is of, and the gradient norm.

    The loss is divided by the real tokens of the whole step, however that is cut into passes.
    """
    total = sum(weight * len(row.completion) for row, weight in zip(rows, weights, strict=True))
    loss_sum = 0.0
    for group, batch in token_batches(rows, config.micro_batch_tokens, policy.runtime.device):
        logprobs = token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0)
        weight = torch.tensor([weights[row] for row in group], device=logprobs.device)
        loss = -(row_sums(logprobs, batch.lengths) * weight).sum()
        (loss / total).backward()
        loss_sum += float(loss.detach())
    return loss_sum, total, updater.step()


@torch.no_grad()
def mean_loss(policy: Policy, rows: Sequence[Tokens], config: Sft) -> float:
    """Nats per token of the completions."""
    loss = 0.0
    for _, batch in token_batches(rows, config.micro_batch_tokens, policy.runtime.device):
        loss -= float(token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0).sum())
    return loss / sum(len(row.completion) for row in rows)
