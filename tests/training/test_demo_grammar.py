"""The grammar of the demo: the same seed the same text, rich enough that samples differ as people do."""

import json
import random

import pytest

from labeling.models.content import content_hash, split_of
from training.demo import build, grammar
from training.demo.gold import recognise
from training.demo.situations import SITUATIONS


@pytest.fixture(scope="module")
def rows():
    return list(grammar.demonstrations(4000, seed=3))


def test_the_same_seed_writes_the_same_text():
    assert list(grammar.demonstrations(50, seed=7)) == list(grammar.demonstrations(50, seed=7))


def test_another_seed_writes_other_text():
    assert list(grammar.demonstrations(50, seed=7)) != list(grammar.demonstrations(50, seed=8))


def test_there_are_dozens_of_situations_with_many_phrasings():
    assert len(SITUATIONS) >= 40
    assert all(len(situation.asks) >= 5 for situation in SITUATIONS)
    assert len({situation.name for situation in SITUATIONS}) == len(SITUATIONS)


def test_answers_hardly_ever_repeat(rows):
    assert len({row["completion"] for row in rows}) > 0.85 * len(rows)


def test_no_slot_is_left_open(rows):
    assert not [row for row in rows if "{" in row["prompt"] + row["completion"]]


def test_answers_are_short_enough_to_train_on_two_cores(rows):
    words = sorted(len(row["completion"].split()) for row in rows)
    assert words[0] >= 2
    assert sum(words) / len(words) < 35
    assert words[-1] <= 70


def test_messages_to_be_judged_are_never_learned_from():
    leave_out = frozenset(row["prompt"] for row in build.read_prompts())
    seen = {row["prompt"] for row in grammar.demonstrations(4000, seed=3, leave_out=leave_out)}
    assert not seen & leave_out
    assert {row["prompt"] for row in grammar.demonstrations(4000, seed=3)} & leave_out, "nothing to leave out"


def test_every_style_of_an_answer_shows_in_every_sentence():
    """No sentence stands in two styles, so each of them tells which style the answer has."""
    seen = {}
    for style, parts in grammar.SENTENCES.items():
        for sentence in {sentence for part in parts for sentence in part}:
            assert seen.setdefault(sentence, style) == style


def test_style_shares_leave_room_for_learning():
    assert abs(sum(grammar.STYLE_SHARES.values()) - 1) < 1e-9
    assert 0.1 <= grammar.STYLE_SHARES["warm"] <= 0.2


def test_the_prompts_file_is_what_its_seed_gives():
    assert build.read_prompts() == grammar.draw_prompts(build.PROMPTS_PER_SITUATION, build.PROMPTS_SEED)


def test_the_prompts_are_many_distinct_and_on_both_sides_of_the_split():
    prompts = [row["prompt"] for row in build.read_prompts()]
    assert len(set(prompts)) == len(prompts) >= 400
    sides = [split_of(content_hash([{"role": "user", "content": prompt}])) for prompt in prompts]
    assert sides.count("eval") >= 100
    assert sides.count("train") >= 300


def test_every_prompt_is_recognised_as_its_situation():
    wrong = [row for row in build.read_prompts() if recognise(row["prompt"]).name != row["tags"][0]]
    assert not wrong


def test_fresh_messages_are_recognised_too():
    rng = random.Random(11)
    requests = [grammar.draw_request(rng) for _ in range(1500)]
    assert not [request.text for request in requests if recognise(request.text) is not request.situation]


def test_prompts_are_json_lines_with_the_keys_of_an_import():
    for line in build.PROMPTS.read_text().splitlines():
        assert set(json.loads(line)) == {"id", "prompt", "tags"}
