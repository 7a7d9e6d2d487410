"""A ranking on its way from a person through a frozen file to the pairs that a reward model learns from."""

import uuid

import pytest

from config.storage import local_path
from labeling.assignment import next_for
from labeling.datasets import freeze
from labeling.judging import answer_from_sides, record
from labeling.models import Completion, Prompt
from labeling.selection import create_comparison

pytestmark = pytest.mark.django_db


def test_a_partial_ranking_becomes_weighted_pairs_of_what_was_ranked(project, bob, alice, tiny_policy):
    from transformers import AutoTokenizer

    from training.engine.batches import Encoder
    from training.engine.config import Reward
    from training.engine.preferences import encode
    from training.engine.records import read_judgments

    project.partial_rankings = True
    project.save()
    prompt = Prompt.objects.add(project, "My parcel is late")
    texts = ("sorry", "please check", "refund today", "new order soon", "thanks")
    rows = [Completion.objects.add(prompt, text, "a model") for text in texts]
    create_comparison(project, prompt, rows)
    assignment = next_for(bob, project)
    shown = [texts[position] for position in assignment.sides]
    # The third one shown is best; the first and the last share the place after it; two are left out.
    said = answer_from_sides(assignment, {"ranking_sides": [[2], [0, 4]]})
    record(assignment, "preferred", uuid.uuid4(), **said)
    version = freeze(project, alice)
    path = local_path(version.train_file if version.train_count else version.eval_file)

    config = Reward(model=str(tiny_policy), train_data=str(path))
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    judgments = encode(read_judgments(path), Encoder(tokenizer, [tokenizer.eos_token_id], config))
    found = [
        (
            *(_text(tokenizer, judgment.rows[place]) for place in (one.chosen, one.rejected)),
            one.tie,
            one.weight,
        )
        for judgment in judgments
        for one in judgment.preferences
    ]
    assert [each for each in found if not each[2]] == [
        (shown[2], other, False, pytest.approx(1 / 3))
        for other in sorted((shown[0], shown[4]), key=texts.index)
    ]
    ((one, other, _, weight),) = [each for each in found if each[2]]
    assert {one, other} == {shown[0], shown[4]} and weight == pytest.approx(1 / 3)
    assert sum(judgment.weight for judgment in judgments) == pytest.approx(1)


def _text(tokenizer, row):
    return tokenizer.decode(row.completion, skip_special_tokens=True)
