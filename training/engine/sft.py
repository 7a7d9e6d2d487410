"""Supervised fine-tuning: the likelihood of the demonstrations' completions, token by token."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from training.engine.batches import Batch, Encoder, Tokens, packed_batches, row_sums
from training.engine.config import Sft
from training.engine.course import take_course
from training.engine.lines import token_batches
from training.engine.loading import load_policy, save_model
from training.engine.networks import Policy, add_adapters, epoch_order, merge_adapters
from training.engine.packing import why_not_packed
from training.engine.records import DemonstrationRecord, read_demonstrations
from training.engine.runtime import Runtime, settle
from training.engine.tensors import token_logprobs
from training.engine.updates import Updater
from training.engine.workspace import Workspace

POOL = 16  # Batches whose rows are sorted by length together: little padding, order still random.


# Rows and a token budget to row numbers with their batch, a forward pass each.
Layout = Callable[[Sequence[Tokens], int, Runtime], Iterator[tuple[list[int], Batch]]]


@dataclass(frozen=True)
class Lesson:
    """Demonstrations as ids, and how they are laid out."""

    rows: list[Tokens]
    weights: list[float]
    eval_rows: list[Tokens]
    layout: Layout


def train_policy(config: Sft, workspace: Workspace) -> dict[str, Any]:
    """Learn from demonstrations; leaves OUT/model."""
    records = _read(config.train_data, workspace)
    held_out = _read(config.eval_data, workspace) if config.eval_data else []
    policy = load_policy(config.model, config, settle(config, workspace.processes))
    add_adapters(policy.model, config)
    encoder = Encoder(policy.tokenizer, policy.end_tokens, config)
    rows, eval_rows = encode(records, encoder), encode(held_out, encoder)
    encoder.report(workspace.events)
    weights = [record.weight for record in records]
    lesson = Lesson(rows, weights, eval_rows, _choose_layout(policy, [*rows, *eval_rows], config, workspace))

    steps = _train(policy, lesson, config, workspace)
    result: dict[str, Any] = {"steps": steps, "demonstrations": len(rows), "loss": None, "eval_loss": None}
    result["loss"] = mean_loss(policy, rows[:512], config)
    if eval_rows:
        result["eval_loss"] = mean_loss(policy, eval_rows, config)
    if config.lora_rank:
        merge_adapters(policy.model)
    save_model(policy, workspace.folder / "model")
    return result


def _read(path: str, workspace: Workspace) -> list[DemonstrationRecord]:
    records, ties = read_demonstrations(path)
    if ties:
        workspace.events.message("info", f"{path}: {ties} preferences are ties and were left out")
    return records


def _choose_layout(policy: Policy, rows: list[Tokens], config: Sft, workspace: Workspace) -> Layout:
    if not config.packing:
        return token_batches
    if reason := why_not_packed(policy, rows):
        name = type(policy.model).__name__
        workspace.events.message("warning", f"{name} cannot be packed: {reason}; rows are padded instead")
        return token_batches
    return packed_batches


def _train(policy: Policy, lesson: Lesson, config: Sft, workspace: Workspace) -> int:
    """Returns the number of steps of a whole run."""
    per_epoch = math.ceil(len(lesson.rows) / config.batch_size)
    meter = _Meter()

    @lru_cache(maxsize=1)
    def batches_of(epoch: int) -> list[list[int]]:
        return _epoch_batches(lesson, config, epoch)

    def learn(updater: Updater, step: int, logs: bool) -> dict[str, float]:
        epoch, place = divmod(step, per_epoch)
        numbers = batches_of(epoch)[place]
        rows = [lesson.rows[number] for number in numbers]
        weights = [lesson.weights[number] for number in numbers]
        meter.add(*_update(policy, updater, rows, weights, config, lesson.layout))
        if not logs:
            return {}
        metrics = meter.read()
        if lesson.eval_rows and (step + 1) % per_epoch == 0:
            metrics["eval_loss"] = mean_loss(policy, lesson.eval_rows, config)
        return metrics

    return take_course("policy", policy.model, policy.runtime, per_epoch, learn, config, workspace)


class _Meter:
    """Loss and pace since it was last read."""

    def __init__(self) -> None:
        self._restart()
        self._norm = math.nan

    def add(self, loss: float, tokens: float, norm: float) -> None:
        """A step's sum of the loss, the weight of its tokens, the norm of its gradient."""
        self._loss, self._tokens, self._norm = self._loss + loss, self._tokens + tokens, norm

    def read(self) -> dict[str, float]:
        """Means over the steps since, and the last norm."""
        seconds = time.monotonic() - self._since
        metrics = {
            "loss": self._loss / max(self._tokens, 1e-9),
            "grad_norm": self._norm,
            "tokens_per_second": self._tokens / max(seconds, 1e-9),
        }
        self._restart()
        return metrics

    def _restart(self) -> None:
        self._loss = self._tokens = 0.0
        self._since = time.monotonic()


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


def _epoch_batches(lesson: Lesson, config: Sft, epoch: int) -> list[list[int]]:
    """An epoch's row numbers, a list per step. Packed rows waste no places, whatever their lengths."""
    if lesson.layout is token_batches:
        return length_batches([row.length for row in lesson.rows], config, epoch)
    order = epoch_order(config.seed, epoch, len(lesson.rows))
    return [order[begin : begin + config.batch_size] for begin in range(0, len(order), config.batch_size)]


def _update(
    policy: Policy,
    updater: Updater,
    rows: list[Tokens],
    weights: list[float],
    config: Sft,
    layout: Layout = token_batches,
) -> tuple[float, float, float]:
    """One step; returns the sum of the loss, the weight of the tokens it is of, and the gradient norm.

    The loss is divided by the real tokens of the whole step, however that is cut into passes.
    """
    total = sum(weight * len(row.completion) for row, weight in zip(rows, weights, strict=True))
    loss_sum = 0.0
    for group, batch in layout(rows, config.micro_batch_tokens, policy.runtime):
        logprobs = token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0)
        weight = torch.tensor([weights[row] for row in group], device=logprobs.device)
        loss = -(row_sums(logprobs, batch.lengths) * weight).sum()
        (loss / total).backward()
        loss_sum += float(loss.detach())
    return sum(policy.runtime.processes.gather(loss_sum)), total, updater.step()


@torch.no_grad()
def mean_loss(policy: Policy, rows: Sequence[Tokens], config: Sft) -> float:
    """Nats per token of the completions."""
    loss = 0.0
    for _, batch in token_batches(rows, config.micro_batch_tokens, policy.runtime):
        loss -= float(token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0).sum())
    return sum(policy.runtime.processes.gather(loss)) / sum(len(row.completion) for row in rows)
