"""Puts sampled completions before people: completions, how they were made, and comparisons of them."""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from config import storage
from labeling.models import Comparison, Completion, Project, Prompt
from labeling.models.content import EVAL_SHARE, text_hash
from labeling.selection import create_comparison, propose_pairs
from training import marked
from training.engine.records import CompletionRecord, iterate_records
from training.models import Generation, Round, RoundComparison, Run

HASH_SPAN = {"eval": (0.0, EVAL_SHARE), "train": (EVAL_SHARE, 1.0)}


def choose_prompts(project: Project, count: int, split: str, rng: random.Random) -> list[Prompt]:
    """Up to `count` prompts of one split: those that follow a random point in the order of their hashes.

    A hash is as good as a shuffle, and the index walks it; no project is too large for that.
    """
    low, high = HASH_SPAN[split]
    start = f"{int(rng.uniform(low, high) * 2**64):016x}"
    prompts = Prompt.objects.filter(project=project, split=split).order_by("content_hash")
    chosen = list(prompts.filter(content_hash__gte=start)[:count])
    return chosen + list(prompts.filter(content_hash__lt=start)[: count - len(chosen)])


def write_prompts(prompts: Iterable[Prompt]) -> str:
    """Store prompts as the engine reads them. Returns the file's path, which its content names."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        for prompt in prompts:
            file.write(
                json.dumps({"id": str(prompt.pk), "prompt": prompt.messages}, ensure_ascii=False) + "\n"
            )
        file.flush()
        return str(storage.local_path(storage.put_file(Path(file.name), "prompts")))


def split_of_target(target: int, eval_share: float) -> dict[str, int]:
    """How many of a round's comparisons are on held-out prompts, and how many on others."""
    held_out = min(target - 1, math.ceil(target * eval_share)) if eval_share else 0
    return {"train": target - held_out, "eval": held_out}


def prompts_for_round(
    round: Round, eval_share: float, rng: random.Random, first: Sequence[Prompt] = ()
) -> list[Prompt]:
    """One prompt for each comparison wanted, or all there are; what one split lacks the other makes up for.

    Those in `first`, which are trained on, are among them in any case.
    """
    wanted = split_of_target(round.target, eval_share)
    chosen = {split: choose_prompts(round.project, count, split, rng) for split, count in wanted.items()}
    for split, other in (("train", "eval"), ("eval", "train")):
        if not chosen[split]:
            chosen[other] = choose_prompts(round.project, round.target, other, rng)
    known = {prompt.pk for prompt in first}
    others = [prompt for prompt in chosen["train"] if prompt.pk not in known]
    train = [*first, *others][: max(len(chosen["train"]), len(first))]
    return train + chosen["eval"]


def put_before_people(
    round: Round,
    runs: Iterable[Run],
    eval_share: float,
    size: int,
    marked_run: Run | None = None,
    most_marked: int = 0,
) -> int:
    """Store what the runs sampled, and make the round's comparisons. Returns how many were made.

    Up to `most_marked` of those on prompts to train on hold a marked sample of `marked_run`.
    """
    rng = random.Random(round.seed)
    pools: dict[int, dict[int, Completion]] = defaultdict(dict)
    for run in runs:
        for completion in _store(run):
            pools[completion.prompt_id][completion.pk] = completion
    prompts = {prompt.pk: prompt for prompt in Prompt.objects.filter(project=round.project, pk__in=pools)}
    special = _marked(marked_run, most_marked)
    wanted = split_of_target(round.target, eval_share)
    wanted["train"] = max(0, wanted["train"] - len(special))
    chosen = []
    for split, count in wanted.items():
        ours = [prompt for prompt in prompts.values() if prompt.split == split]
        chosen += islice(_in_turn(ours, pools, count, size, rng), count)
    if len(chosen) + len(special) < round.target:  # one split had too few: fill up from all prompts
        seen = {_key(group) for _, group in chosen}
        rest = _in_turn(list(prompts.values()), pools, round.target, size, rng)
        fresh = ((prompt, group) for prompt, group in rest if _key(group) not in seen)
        chosen += islice(fresh, round.target - len(chosen) - len(special))
    if not chosen:
        return 0
    # Mixed, so that a round that trains early has held-out answers too.
    rng.shuffle(chosen)
    comparisons = special + [create_comparison(round.project, prompt, group) for prompt, group in chosen]
    RoundComparison.objects.bulk_create(
        RoundComparison(round=round, comparison=comparison) for comparison in comparisons
    )
    return len(comparisons)


def _marked(run: Run | None, most: int) -> list[Comparison]:
    """Comparisons of a run's marked samples with what is there for their prompts; none where it marked nothing."""
    try:
        return marked.put_before_annotators(run, most).comparisons if run and most else []
    except marked.NothingMarked:
        return []


def _key(group: Iterable[Completion]) -> frozenset[int]:
    return frozenset(completion.pk for completion in group)


def _in_turn(
    prompts: list[Prompt], pools: dict[int, dict[int, Completion]], count: int, size: int, rng: random.Random
) -> Iterator[tuple[Prompt, list[Completion]]]:
    """A comparison of each prompt, then a second of each, and so on, so that none is asked about more than others."""
    if not prompts:
        return
    rng.shuffle(prompts)
    each = math.ceil(count / len(prompts)) + 1
    offers = [
        [(prompt, list(group)) for group in propose_pairs(list(pools[prompt.pk].values()), each, size, rng)]
        for prompt in prompts
    ]
    for turn in zip_longest(*offers):
        yield from (offer for offer in turn if offer is not None)


def author_of(run: Run) -> str:
    """Who writes a generate run's candidates: the version that is sampled, or the model that a server is asked for."""
    return run.config.get("server_model_name") or run.input_model.name


def _store(run: Run) -> list[Completion]:
    """The completions of a generate run as rows, with how each was made. Empty ones are nothing to show."""
    author = author_of(run)
    records = {
        (int(record.id), text_hash(record.completion)): record
        for record in iterate_records(run.path / "completions.jsonl", CompletionRecord)
        if record.completion.strip() and "\x00" not in record.completion
    }
    prompt_ids = {prompt_id for prompt_id, _ in records}
    mine = set(Prompt.objects.filter(project=run.project, pk__in=prompt_ids).values_list("pk", flat=True))
    Completion.objects.bulk_create(
        (
            Completion(prompt_id=prompt_id, text=record.completion, author=author, text_hash=digest)
            for (prompt_id, digest), record in records.items()
            if prompt_id in mine
        ),
        ignore_conflicts=True,
        batch_size=1000,
    )
    stored = [
        completion
        for completion in Completion.objects.filter(prompt__in=mine, author=author)
        if (completion.prompt_id, completion.text_hash) in records
    ]
    Generation.objects.bulk_create(
        (
            _generation(completion, run, records[completion.prompt_id, completion.text_hash])
            for completion in stored
        ),
        ignore_conflicts=True,
        batch_size=1000,
    )
    return stored


def _generation(completion: Completion, run: Run, record: CompletionRecord) -> Generation:
    return Generation(
        completion=completion,
        model_version=None if run.config.get("server") else run.input_model,
        run=run,
        temperature=record.temperature,
        seed=run.seed,
        sample=record.sample,
        tokens=record.tokens,
        ended=record.ended,
    )
