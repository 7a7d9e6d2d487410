"""Win rates by a judge: who wins, and what is a draw."""

import pytest
import torch

from tests.engine.conftest import LIMITS, scorer_of
from training.engine.config import Evaluate
from training.engine.evaluate import compare
from training.engine.records import CompletionRecord


def answers(*texts):
    return [CompletionRecord(prompt="a b", completion=text) for text in texts]


def verdict(judge, llama, ours, theirs):
    config = Evaluate(model=llama, baseline_model=llama, prompts="-", **LIMITS)
    return compare(judge, answers(*ours), answers(*theirs), config)["win_rate"]


def test_the_same_answer_is_a_draw_even_where_rounding_scores_it_differently(llama, monkeypatch):
    judge = scorer_of(llama)
    usual = judge.score_rows
    rounding = iter([1e-7, 0.0])
    monkeypatch.setattr(judge, "score_rows", lambda rows, budget: usual(rows, budget) + next(rounding))
    assert verdict(judge, llama, ["c d", "e"], ["c d", "e"]) == 0.5


def test_who_scores_higher_wins_and_equal_scores_of_other_words_are_a_draw(llama, monkeypatch):
    judge = scorer_of(llama)
    found = iter([torch.tensor([2.0, 1.0, 3.0, 0.0]), torch.tensor([1.0, 2.0, 3.0, -1.0])])
    monkeypatch.setattr(judge, "score_rows", lambda rows, budget: next(found))
    assert verdict(judge, llama, ["c", "d", "e", "f"], ["d", "c", "f", "g"]) == pytest.approx(2.5 / 4)
