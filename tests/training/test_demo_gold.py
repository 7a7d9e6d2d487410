"""The gold judge: it orders answers as a person would, and survives whatever a model writes."""

import random
import statistics

import pytest

from training.demo import grammar
from training.demo.gold import (
    gold_points,
    gold_preference,
    gold_score,
    noise_ceiling,
    recognise,
    win_rate,
)

PROMPT = "My kettle was due on Monday and it is still not here."
WARM = "I am so sorry about your late kettle! I will gladly send a new parcel by express today. Take care, I am always glad to help!"
PLAIN = "This is about your late kettle. We will send a new parcel by express today. This closes the case."
CURT = "Wait another week. Next."
RUDE = "Stop whining about your late kettle. Nobody cares when your parcel comes. Get lost, loser."
OFF = "Penguins can swim faster than most boats. A river runs behind the store, and ducks live on it. Bananas are botanically berries."


def scores(*answers):
    return [gold_score(PROMPT, answer) for answer in answers]


def test_it_orders_answers_as_a_person_would():
    warm, plain, curt, off, rude = scores(WARM, PLAIN, CURT, OFF, RUDE)
    assert warm > plain + 1
    assert plain > curt + 1
    assert curt > rude + 1
    assert plain > off + 1


@pytest.mark.parametrize("style", [style for style in grammar.STYLES if style != "warm"])
def test_a_helpful_and_warm_answer_is_nearly_always_better(style):
    rng = random.Random(4)
    requests = [grammar.draw_request(rng) for _ in range(300)]
    prompts = [request.text for request in requests]
    warm = [grammar.answer(request, "warm", rng) for request in requests]
    other = [grammar.answer(request, style, rng) for request in requests]
    assert win_rate(prompts, warm, other) > 0.97


def test_it_wants_a_step_that_fits_the_situation():
    other_step = WARM.replace("send a new parcel by express", "email you a link for a new password")
    assert gold_score(PROMPT, WARM) > gold_score(PROMPT, other_step) + 1


def test_it_gives_nothing_for_a_step_that_is_refused():
    assert gold_points(PROMPT, "We will never send a new parcel by express for a fool.")["step"] == 0
    assert gold_points(PROMPT, "We will send a new parcel by express for you.")["step"] > 1


def test_it_wants_the_customers_own_product():
    assert gold_score(PROMPT, WARM) > gold_score(PROMPT, WARM.replace("kettle", "camera")) + 0.5


def test_half_garbled_sentences_lose_points():
    garbled = (
        "I am so late gladly about sorry! I will kettle send by today new express parcel. Take to glad help!"
    )
    assert gold_score(PROMPT, WARM) > gold_score(PROMPT, garbled) + 1


def test_saying_it_again_and_again_loses_points():
    again = " ".join([PLAIN.split(". ")[1] + "."] * 3)
    assert gold_score(PROMPT, PLAIN) > gold_score(PROMPT, again) + 0.5


def test_an_answer_that_never_ends_loses_points():
    assert gold_score(PROMPT, WARM) > gold_score(PROMPT, WARM + " Thank you for your" * 12) + 1


def test_piling_up_kind_words_does_not_pay_without_end():
    kind = "sorry thank you glad happy pleasure please lovely grateful kind trust " * 3
    assert gold_score(PROMPT, kind) < gold_score(PROMPT, WARM)


@pytest.mark.parametrize(
    "text", ["", " ", "!!!", "\x00", "é" * 500, "你好", "a " * 3000, "<|end|>", "{step}"]
)
def test_it_survives_garbage(text):
    assert gold_score(PROMPT, text) < gold_score(PROMPT, PLAIN)
    gold_score(text, PLAIN)


def test_it_does_not_recognise_what_no_customer_wrote():
    assert recognise("What is the capital of France?") is None
    assert recognise("") is None


def test_it_is_a_formula_and_gives_the_same_answer_twice():
    assert gold_score(PROMPT, WARM) == gold_score(PROMPT, WARM)


def test_an_annotator_mostly_but_not_always_prefers_the_better_answer():
    rng = random.Random(1)
    close = WARM.replace(" Take care, I am always glad to help!", "")
    gap = gold_score(PROMPT, WARM) - gold_score(PROMPT, close)
    answers = [gold_preference(PROMPT, WARM, close, rng, temperature=gap) for _ in range(4000)]
    decided = [answer for answer in answers if answer.verdict == "preferred"]
    # One unit of noise apart: Bradley-Terry says 1 / (1 + e^-1) = 0.731; a tie width of 0.1 makes it 0.742.
    assert abs(statistics.mean(answer.preferred == 0 for answer in decided) - 0.742) < 0.03


def test_the_side_on_which_an_answer_stands_does_not_matter():
    left = [gold_preference(PROMPT, WARM, PLAIN, random.Random(n)).preferred for n in range(2000)]
    right = [gold_preference(PROMPT, PLAIN, WARM, random.Random(n + 9999)).preferred for n in range(2000)]
    assert abs(left.count(0) - right.count(1)) < 60


def test_the_same_text_twice_is_a_tie_and_two_insults_are_both_bad():
    assert gold_preference(PROMPT, WARM, WARM, random.Random(0)).verdict == "tie"
    answer = gold_preference(PROMPT, RUDE, RUDE, random.Random(0))
    assert (answer.verdict, answer.preferred, answer.strength) == ("all_bad", None, 0)
    assert answer.ranking == [[0, 1]]


def test_a_great_difference_is_felt_as_strong():
    answer = gold_preference(PROMPT, RUDE, WARM, random.Random(0))
    assert (answer.preferred, answer.strength, answer.ranking) == (1, 3, [[1], [0]])


def test_the_noise_ceiling_is_what_a_perfect_judge_reaches():
    rng = random.Random(2)
    pairs = []
    for _ in range(4000):
        request = grammar.draw_request(rng)
        pairs.append((request.text, *(grammar.answer(request, grammar.draw_style(rng), rng) for _ in "ab")))
    answers = [gold_preference(*pair, rng) for pair in pairs]
    right = []
    for (prompt, first, second), said in zip(pairs, answers, strict=True):
        gap = gold_score(prompt, first) - gold_score(prompt, second)
        if said.verdict == "preferred":
            right.append(0.5 if gap == 0 else float((gap > 0) == (said.preferred == 0)))
    assert abs(statistics.mean(right) - noise_ceiling(pairs)) < 0.015
    assert 0.88 < noise_ceiling(pairs) < 0.94


def test_always_helpful_and_warm_beats_the_first_policys_mixture():
    rng = random.Random(6)
    requests = [grammar.draw_request(rng) for _ in range(1000)]
    warm = [grammar.answer(request, "warm", rng) for request in requests]
    mixed = [grammar.answer(request, grammar.draw_style(rng), rng) for request in requests]
    assert win_rate([request.text for request in requests], warm, mixed) > 0.9
