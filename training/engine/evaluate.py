"""Methods that change no weights: generate completions, score them, hold two policies side by side."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from pydantic import BaseModel

from training.engine.batches import Encoder, Tokens, row_sums
from training.engine.config import Evaluate, Generate, Score, Settings
from training.engine.generation import Completion, Sampling, sample
from training.engine.guards import text_metrics
from training.engine.intervals import mean_interval, share_interval
from training.engine.lines import token_batches
from training.engine.loading import load_policy, load_scorer
from training.engine.networks import Policy, Scorer, generator, same_tokenizer
from training.engine.records import CompletionRecord, PromptRecord, ScoreRecord, read_records
from training.engine.runtime import settle
from training.engine.tensors import exact_kl
from training.engine.workspace import StopRequested, Workspace, write_atomically

CHUNK = 64  # Prompts between two reports of progress, and between two chances to stop.


def generate(config: Generate, workspace: Workspace) -> dict[str, Any]:
    """Completions of every prompt, sampled here or by a server; leaves OUT/completions.jsonl."""
    prompts = read_records(config.prompts, PromptRecord)
    if config.server:
        from training.engine import served  # and its HTTP client, which nothing else needs

        records = served.ask_for_completions(prompts, config, workspace)
        write_records(workspace, "completions.jsonl", records)
        served.forget_answers(workspace)
    else:
        records = _sample_here(prompts, config, workspace)
        write_records(workspace, "completions.jsonl", records)
    return {"prompts": len(prompts), "completions": len(records), **describe_samples(records)}


def _sample_here(
    prompts: Sequence[PromptRecord], config: Generate, workspace: Workspace
) -> list[CompletionRecord]:
    runtime = settle(config, workspace.processes)
    policy = load_policy(config.model, config, runtime)
    how = Sampling(
        config.max_completion_tokens,
        config.temperatures,
        config.samples_per_prompt,
        config.top_k,
        config.top_p,
    )
    return sample_records(policy, prompts, how, config, workspace, "generate")[1]


def score(config: Score, workspace: Workspace) -> dict[str, Any]:
    """Score completions; leaves OUT/scores.jsonl, a row for each, in the same order."""
    records = read_records(config.completions, CompletionRecord)
    runtime = settle(config, workspace.processes)
    judge = load_scorer(config.model, config, runtime)
    encoder = Encoder(judge.tokenizer, judge.end_tokens, config)
    rows = encode_answers(encoder, records, [record.completion for record in records])
    encoder.report(workspace.events)
    scores: list[float] = []
    spreads: list[float | None] = []
    for begin in range(0, len(rows), CHUNK):
        if workspace.should_stop():
            raise StopRequested
        chunk = rows[begin : begin + CHUNK]
        mean, spread = judge.score_rows_with_spread(chunk, config.micro_batch_tokens)
        scores += mean.tolist()
        spreads += spread.tolist() if judge.ensemble else [None] * len(chunk)
        workspace.events.progress("score", len(scores), len(rows))
    scored = [
        ScoreRecord(
            **record.model_dump(include={"id", "prompt", "answer", "completion", "sample"}),
            score=value,
            spread=spread,
        )
        for record, value, spread in zip(records, scores, spreads, strict=True)
    ]
    write_records(workspace, "scores.jsonl", scored)
    values = torch.tensor(scores)
    return {
        "completions": len(scores),
        "score_mean": float(values.mean()),
        "score_std": float(values.std(correction=0)),
        "spread_mean": sum(spread or 0.0 for spread in spreads) / len(spreads) if judge.ensemble else None,
    }


def evaluate(config: Evaluate, workspace: Workspace) -> dict[str, Any]:
    """Sample from both policies with the same random numbers; leaves both files of completions."""
    prompts = read_records(config.prompts, PromptRecord)
    runtime = settle(config, workspace.processes)
    policy = load_policy(config.model, config, runtime)
    baseline = load_policy(config.baseline_model, config, runtime)
    sources = {"": config.judge_model, "second_": config.second_judge_model}
    judges = {name: load_scorer(source, config, runtime) for name, source in sources.items() if source}
    how = Sampling(config.max_completion_tokens, (config.temperature,), config.samples_per_prompt)
    sampled, records = sample_records(policy, prompts, how, config, workspace, "sample model")
    _, others = sample_records(baseline, prompts, how, config, workspace, "sample baseline")
    write_records(workspace, "completions.jsonl", records)
    write_records(workspace, "baseline_completions.jsonl", others)

    clusters = [record.key for record in records]
    result: dict[str, Any] = {"prompts": len(prompts), "completions": len(records)}
    result |= describe_samples(records)
    result |= {f"baseline_{name}": value for name, value in describe_samples(others).items()}
    result |= {"kl_nats": None, "kl_nats_interval": None, "win_rate": None, "win_rate_interval": None}
    result |= {"second_win_rate": None, "second_win_rate_interval": None}
    if same_tokenizer(policy.tokenizer, baseline.tokenizer):
        kl = completion_kl(policy, baseline, sampled, config.temperature or 1.0, config, workspace)
        result["kl_nats"], result["kl_nats_interval"] = mean_interval(kl, clusters)
    else:
        workspace.events.message("warning", "the two policies have different tokenizers: no KL between them")
    for name, judge in judges.items():
        verdict = compare(judge, records, others, config)
        result |= {f"{name}{figure}": value for figure, value in verdict.items()}
    return result


def compare(
    judge: Scorer, records: Sequence[CompletionRecord], others: Sequence[CompletionRecord], config: Evaluate
) -> dict[str, Any]:
    """How often the judge puts a completion above the one beside it; a tie is half a win."""
    encoder = Encoder(judge.tokenizer, judge.end_tokens, config)
    ours, theirs = (
        judge.score_rows(
            encode_answers(encoder, rows, [row.completion for row in rows]), config.micro_batch_tokens
        )
        for rows in (records, others)
    )
    # The same answer is a draw, though rounding may score it differently among other rows.
    same = torch.tensor(
        [one.completion == other.completion for one, other in zip(records, others, strict=True)]
    )
    wins = torch.where(same | (ours == theirs), 0.5, (ours > theirs).float()).tolist()
    win_rate, interval = share_interval(wins, [record.key for record in records])
    return {
        "win_rate": win_rate,
        "win_rate_interval": interval,
        "judge_mean": float(ours.mean()),
        "baseline_judge_mean": float(theirs.mean()),
    }


def sample_records(
    policy: Policy,
    prompts: Sequence[PromptRecord],
    how: Sampling,
    config: Settings,
    workspace: Workspace,
    phase: str,
) -> tuple[list[Completion], list[CompletionRecord]]:
    """Completions of every prompt, as ids and as rows of a file; says how far it is."""
    encoder = Encoder(policy.tokenizer, policy.end_tokens, config)
    ids = encoder.prompts([prompt.messages for prompt in prompts])
    encoder.report(workspace.events)
    sampled: list[Completion] = []
    for number, begin in enumerate(range(0, len(ids), CHUNK)):
        if workspace.should_stop():
            raise StopRequested
        random = generator(config.seed, "sampling", number)
        chunk = ids[begin : begin + CHUNK]
        sampled += sample(policy, chunk, how, random, config.micro_batch_tokens, workspace.check_stop)
        workspace.events.progress(phase, begin + len(chunk), len(ids))
    records = []
    for number, completion in enumerate(sampled):
        prompt, turn = prompts[number // how.samples_per_prompt], number % how.samples_per_prompt
        records.append(
            CompletionRecord(
                id=prompt.id,
                prompt=prompt.prompt,
                answer=prompt.answer,
                completion=encoder.text(completion.tokens, policy.end_tokens),
                ended=completion.ended,
                tokens=len(completion.tokens),
                temperature=how.temperatures[turn % len(how.temperatures)],
                sample=turn,
                logprob=float(completion.logprobs.sum()),
            )
        )
    return sampled, records


def describe_samples(records: Sequence[CompletionRecord]) -> dict[str, float | None]:
    """Length, endings and variety of some completions; no length where a server counted no tokens."""
    lengths = [record.tokens for record in records]
    return {
        "length_mean": sum(lengths) / len(lengths) if all(lengths) else None,
        "eos_rate": sum(record.ended for record in records) / len(records),
        **text_metrics([record.completion for record in records]),
    }


@torch.no_grad()
def completion_kl(
    policy: Policy,
    reference: Policy,
    completions: Sequence[Completion],
    temperature: float,
    config: Settings,
    workspace: Workspace,
) -> list[float]:
    """Exact KL of each sampled completion, in nats: of the whole vocabulary, summed over its tokens."""
    rows = [Tokens(completion.prompt, completion.tokens) for completion in completions]
    sums = torch.zeros(len(rows))
    runtime = policy.runtime.shared_with(reference.runtime)
    for group, batch in token_batches(rows, config.micro_batch_tokens, runtime):
        workspace.check_stop()
        kl = exact_kl(policy.head, policy.hidden(batch), reference.head, reference.hidden(batch), temperature)
        sums[group] = row_sums(kl, batch.lengths).cpu()
    return policy.runtime.processes.add_up(sums).tolist()


def encode_answers(encoder: Encoder, prompts: Sequence[PromptRecord], answers: Sequence[str]) -> list[Tokens]:
    """Prompts with answers as a reward model reads them."""
    ids = encoder.prompts([prompt.messages for prompt in prompts])
    return [Tokens(prompt, end) for prompt, end in zip(ids, encoder.scored(answers), strict=True)]


def write_records(workspace: Workspace, name: str, records: Iterable[BaseModel]) -> None:
    """JSON Lines in OUT/, there whole or not at all."""
    if not workspace.processes.is_first:
        return
    lines = [json.dumps(record.model_dump(mode="json"), ensure_ascii=False) for record in records]
    write_atomically(workspace.folder / name, "".join(f"{line}\n" for line in lines).encode())
