"""Marked samples: what a policy's run left for people to look at, and how it comes before annotators."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction

from labeling.models import Candidate, Comparison, Completion, Prompt
from labeling.models.content import text_hash
from labeling.selection import create_comparison, same_text
from training.engine.config import EngineError
from training.engine.records import MarkedRecord, iterate_records
from training.models import Generation, LoopSettings, Run

logger = logging.getLogger(__name__)

PRIORITY = -10  # asked before a round's own comparisons, which have 0
METHODS = ("ppo", "grpo", "rloo")


class NothingMarked(ValueError):
    """The run left no marked samples; the message says so in a sentence."""


@dataclass(frozen=True)
class Outcome:
    """What came of putting a run's marked samples before annotators."""

    comparisons: list[Comparison]  # made by this call
    already: int = 0  # samples that were before annotators, or had been judged
    alone: int = 0  # samples whose prompt has no other text to compare with
    left_out: int = 0  # samples of held-out or vanished prompts, or with nothing to read

    def __str__(self) -> str:
        made = len(self.comparisons)
        words = [f"{made} comparison{'' if made == 1 else 's'} with marked samples put before annotators."]
        if self.already:
            words.append(f"{_samples(self.already)} there already.")
        if self.alone:
            words.append(f"{_samples(self.alone)} without another answer to the same prompt to compare with.")
        if self.left_out:
            words.append(f"{_samples(self.left_out)} left out: nothing to read, or no prompt to train on.")
        return " ".join(words)


def _samples(count: int) -> str:
    return f"{count} {'was' if count == 1 else 'were'}"


def records(run: Run) -> list[MarkedRecord]:
    """What the run marked, first what people should see first; nothing before the run is over."""
    if run.unfinished or run.method not in METHODS:
        return []
    path = run.path / "marked.jsonl"
    if not path.exists():
        return []
    try:
        return list(iterate_records(path, MarkedRecord))
    except (OSError, EngineError):
        logger.exception("what run %s marked cannot be read", run.pk)
        return []


def author_of(run: Run) -> str:
    """Who wrote a marked sample: the run. The weights of that moment may be none that were kept."""
    return f"run-{run.pk}"


def listed(run: Run, most: int) -> list[dict[str, Any]]:
    """The first marked samples, each with its comparison where it is before annotators."""
    found = records(run)[:most]
    compared = {
        (candidate.completion.prompt_id, candidate.completion.text_hash): candidate.comparison
        for candidate in Candidate.objects.filter(
            completion__prompt__in=_prompts_of(run, found), completion__author=author_of(run)
        ).select_related("completion", "comparison")
    }
    return [
        {"sample": sample, "comparison": compared.get((_prompt_id(sample), text_hash(sample.completion)))}
        for sample in found
    ]


def prompts_to_sample(run: Run, most: int) -> list[Prompt]:
    """The prompts of the first marked samples that nobody was asked about, so that partners are sampled for them."""
    found = [row["sample"] for row in listed(run, len(records(run))) if row["comparison"] is None]
    prompts = _prompts_of(run, found)
    return list({key: prompts[key] for row in found if (key := _prompt_id(row)) in prompts}.values())[:most]


def put_before_annotators(run: Run, most: int | None = None) -> Outcome:
    """Store marked samples and compare each with another answer to its prompt. Raises NothingMarked.

    Again is harmless: a sample that stands in a comparison gets no other. The run's row is locked, so of two
    who ask at once the second finds what the first made.
    """
    with transaction.atomic():
        Run.objects.select_for_update(no_key=True).get(pk=run.pk)
        found = records(run)
        if not found:
            raise NothingMarked(f"Run {run.pk} left no marked samples.")
        stored = _store(run, found)
        return _compare(run, stored, len(found) - len(stored), most)


def _compare(run: Run, stored: list[Completion], left_out: int, most: int | None) -> Outcome:
    prompts = Prompt.objects.in_bulk({completion.prompt_id for completion in stored})
    taken = set(Candidate.objects.filter(completion__in=stored).values_list("completion", flat=True))
    already = sum(completion.pk in taken for completion in stored)
    partners = _partners(run, prompts)
    made, alone = [], 0
    for completion in stored:
        if completion.pk in taken:
            continue
        if most is not None and len(made) >= most:
            break
        partner = _partner(completion, partners[completion.prompt_id])
        if partner is None:
            alone += 1
            continue
        pair = [completion, partner]
        made.append(create_comparison(run.project, prompts[completion.prompt_id], pair, priority=PRIORITY))
        taken |= {completion.pk, partner.pk}
    return Outcome(made, already, alone, left_out)


def _partners(run: Run, prompts: Iterable[int]) -> dict[int, list[Completion]]:
    """Every completion of each prompt, the best partner first: of the first policy, of the run's input model,
    another marked one, any other. What both the reward model and people know is the firmest ground.
    """
    settings = LoopSettings.objects.select_related("first_policy").filter(project=run.project_id).first()
    order = [settings.first_policy.name] if settings else []
    order += [run.input_model.name, author_of(run)]
    found: dict[int, list[Completion]] = {prompt: [] for prompt in prompts}
    # What an annotator wrote as a better answer is not put before others; it may have been taken back.
    for completion in Completion.objects.filter(prompt__in=found, edit_of=None).order_by("id"):
        if completion.text.strip():
            found[completion.prompt_id].append(completion)
    for completions in found.values():
        completions.sort(key=lambda one: order.index(one.author) if one.author in order else len(order))
    return found


def _partner(completion: Completion, partners: list[Completion]) -> Completion | None:
    """The first that reads differently."""
    own = same_text(completion.text)
    return next((one for one in partners if same_text(one.text) != own), None)


def _store(run: Run, found: list[MarkedRecord]) -> list[Completion]:
    """Marked samples as completions, with how each was made; those of held-out or foreign prompts are left out."""
    prompts, stored = _prompts_of(run, found), []
    for record in found:
        prompt = prompts.get(_prompt_id(record))
        if prompt is None or not record.completion.strip():
            continue
        try:
            completion = Completion.objects.add(prompt, record.completion, author_of(run))
        except ValidationError:  # what the database cannot keep, nobody can read
            continue
        Generation.objects.get_or_create(
            completion=completion,
            defaults={
                "run": run,
                "temperature": record.temperature,
                "seed": run.seed,
                "sample": record.sample,
                "tokens": record.tokens,
                "ended": record.ended,
            },
        )
        stored.append(completion)
    return stored


def _prompts_of(run: Run, found: list[MarkedRecord]) -> dict[int, Prompt]:
    """The project's prompts that are trained on: what people say of a held-out one may only measure."""
    numbers = {number for record in found if (number := _prompt_id(record)) is not None}
    return Prompt.objects.filter(project=run.project_id, split=Prompt.Split.TRAIN).in_bulk(numbers)


def _prompt_id(record: MarkedRecord) -> int | None:
    """Runs are given prompts by their number; a file from elsewhere may name them in any way."""
    text = str(record.id)
    return int(text) if text.isdecimal() and len(text) < 19 else None
