"""Which completions to put side by side, and what to ask first."""

import itertools
import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from django.core.exceptions import ValidationError
from django.db import transaction

from labeling.models import Candidate, Comparison, Completion, Project, Prompt
from labeling.models.projects import MAX_CANDIDATES, MIN_CANDIDATES

# Beyond so many possible groups a random part of them is enough to choose from.
MAX_GROUPS = 5_000
ONE_SHAPE = str.maketrans("\u2018\u2019\u201c\u201d\u2010\u2011\u2012\u2013\u2014\u2212", "''\"\"------")
BULLET = re.compile(r"^( {0,3})[*+](?= )", re.MULTILINE)


def propose_pairs(
    completions: Sequence[Completion], count: int, size: int = 2, rng: random.Random | None = None
) -> list[tuple[Completion, ...]]:
    """Choose up to `count` groups of `size` completions of one prompt, each to become a comparison.

    Never two equal texts in a group, never a group twice; every completion is shown about equally often.
    Returns fewer groups when there are not enough different texts.
    """
    rng = rng or random.SystemRandom()
    different = list({same_text(completion.text): completion for completion in completions}.values())
    groups = _some_groups(len(different), size, rng)
    shown: Counter[int] = Counter()
    proposed = []
    while groups and len(proposed) < count:
        # The first of those whose completions were shown least: random among equals.
        least = min(groups, key=lambda group: (max(shown[n] for n in group), sum(shown[n] for n in group)))
        groups.remove(least)
        shown.update(least)
        proposed.append(tuple(different[n] for n in rng.sample(least, size)))
    return proposed


def _some_groups(count: int, size: int, rng: random.Random) -> list[tuple[int, ...]]:
    """Return all groups of `size` out of `count` in random order, or MAX_GROUPS of them if they are more."""
    if math.comb(count, size) > MAX_GROUPS:
        return list({tuple(sorted(rng.sample(range(count), size))): None for _ in range(MAX_GROUPS)})
    groups = list(itertools.combinations(range(count), size))
    rng.shuffle(groups)
    return groups


def same_text(text: str) -> str:
    """What two texts have in common that a person would not choose between.

    Put aside are spacing, case, characters that cannot be seen, ways to write one character, the shape of quotes and
    dashes, by which sign lists and strong words are marked, and how the last sentence ends. Other signs stay: in code
    and formulas they are all that differs, and one letter may turn what is said round.
    """
    if "`" not in text:
        text = BULLET.sub(r"\1-", text).replace("__", "**")
    text = unicodedata.normalize("NFC", text).translate(ONE_SHAPE)
    seen = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return " ".join(seen.split()).casefold().rstrip(" .!")


@transaction.atomic
def create_comparison(
    project: Project,
    prompt: Prompt,
    completions: Sequence[Completion],
    overlap: int | None = None,
    priority: int = 0,
) -> Comparison:
    """Put completions of a prompt before the project's annotators.

    overlap: how many people judge it (None: as the project says). priority: lower is asked first.
    Raises ValidationError for too few or too many, equal texts, or a completion of another prompt.
    """
    _check_candidates(prompt, completions)
    comparison = Comparison.objects.create(
        project=project,
        prompt=prompt,
        overlap=project.overlap if overlap is None else overlap,
        priority=priority,
    )
    Candidate.objects.bulk_create(
        Candidate(comparison=comparison, completion=completion, position=position)
        for position, completion in enumerate(completions)
    )
    return comparison


def _check_candidates(prompt: Prompt, completions: Sequence[Completion]) -> None:
    if not MIN_CANDIDATES <= len(completions) <= MAX_CANDIDATES:
        raise ValidationError(
            {"completions": f"must be {MIN_CANDIDATES} to {MAX_CANDIDATES}, not {len(completions)}"}
        )
    if any(completion.prompt_id != prompt.pk for completion in completions):
        raise ValidationError({"completions": "must all answer this prompt"})
    if len({same_text(completion.text) for completion in completions}) < len(completions):
        raise ValidationError({"completions": "must differ; equal texts teach nothing"})
