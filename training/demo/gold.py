"""The gold judge of the demo task: a closed formula for which answer a person would prefer.

It knows the situations of the grammar by heart and reads an answer for what a customer wants of it: a
concrete step that settles the matter, the matter itself, politeness, a sensible length, no repetition,
whole sentences. Nothing in it is learned. Only simulated annotators and measurements may import it: a
judge that trains would make every figure of the rehearsal worthless (a test reads the imports).
"""

import itertools
import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from training.demo.grammar import GREETINGS, PLEAS, SENTENCES, TIMES
from training.demo.situations import ANY, BY_NAME, DAYS, SITUATIONS, Situation

# Points of an answer. The step weighs most, then manners; see docs/demo.md for a worked example.
STEP_POINTS = 2.0
MATTER_POINTS = 0.6
PRODUCT_POINTS = 0.4
OTHER_PRODUCT_POINTS = -0.8
STRAY_POINTS = -2.5
WARM_POINTS = 0.5
RUDE_POINTS = -1.5
WAFFLE_POINTS = -0.6
REPEAT_POINTS = -2.5
GARBLE_POINTS = -3.0
OPEN_END_POINTS = -0.5
SHORT_POINTS_PER_WORD = -0.05
LONG_POINTS_PER_WORD = -0.06
SHORT_WORDS, LONG_WORDS = 12, 42
WARM_CAP, RUDE_CAP, WAFFLE_CAP = 4, 3, 5

WARM = (
    "sorry", "thank you", "glad", "gladly", "happy", "happily", "pleasure", "please", "love to", "lovely",
    "grateful", "kind", "warm wishes", "take care", "care about", "trust", "i understand",
)  # fmt: skip
RUDE = (
    "stop whining", "not you again", "stupid", "fool", "laugh", "sick of", "idiot", "go away", "shut up",
    "bother", "loser", "get lost", "annoy", "hate", "so what", "lazy", "whining", "never",
)  # fmt: skip
WAFFLE = (
    "well", "hmm", "anyway", "who knows", "who can tell", "sort of", "you know", "perhaps", "maybe",
    "it depends", "or was it", "where was i",
)  # fmt: skip
# A step counts only where it is offered: not where it is refused, mocked or left in the air.
REFUSALS = frozenset(("never", "idiot", "fool", "perhaps", "maybe", "not", "asked"))
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a an and are as at be by can did do does for from has have he how i if in is it its me my no not
        of on one or our so than that the their then there this to us was we what when where which will
        with you your
        """,
    )
)

# One judgment's noise in points: a difference of this many points is preferred with 73 %. At this
# value a perfect judge agrees with 90 % of the judgments of a rehearsal, over both of its rounds.
TEMPERATURE = 0.5
# Differences (in units of the noise) below which an annotator says tie, clearly better, much better.
TIE_WIDTH, CLEAR_WIDTH, STRONG_WIDTH = 0.1, 2.0, 4.5
BAD_SCORE = -1.5
# Share of words in common from which a message is taken for a phrasing of a situation.
SIMILAR = 0.3


def gold_score(prompt: str, completion: str) -> float:
    """Score an answer to a customer's message, in points; about -5 (insult) to 5 (helpful and warm)."""
    return sum(gold_points(prompt, completion).values())


def gold_points(prompt: str, completion: str) -> dict[str, float]:
    """The points of an answer by what they were given for."""
    words = _words(completion)
    text = f" {' '.join(words)} "
    return {
        "step": STEP_POINTS * _step_share(prompt, completion),
        "topic": _topic_points(prompt, words),
        "warm": WARM_POINTS * _hits(text, WARM, WARM_CAP),
        "rude": RUDE_POINTS * min(_hits(text, RUDE, RUDE_CAP) + _insults(completion), RUDE_CAP),
        "waffle": WAFFLE_POINTS * _hits(text, WAFFLE, WAFFLE_CAP),
        "repeats": REPEAT_POINTS * _repeated_share(words),
        "garbled": GARBLE_POINTS * _unknown_share(completion),
        "length": _length_points(len(words)),
        "end": 0.0 if completion.rstrip().endswith((".", "!", "?")) else OPEN_END_POINTS,
    }


@dataclass(frozen=True)
class GoldAnswer:
    """What a simulated annotator says about a pair; `preferred` is 0, 1 or None (a tie)."""

    verdict: str  # preferred, tie or all_bad
    preferred: int | None
    strength: int  # 1 to 3; 0 for a tie

    @property
    def ranking(self) -> list[list[int]]:
        """Positions best first, ties grouped, as a judgment stores them."""
        return [[0, 1]] if self.preferred is None else [[self.preferred], [1 - self.preferred]]


def gold_preference(
    prompt: str, first: str, second: str, rng: random.Random, temperature: float = TEMPERATURE
) -> GoldAnswer:
    """Compare two answers as a person would: Bradley-Terry noise of `temperature` points on the scores."""
    scores = gold_score(prompt, first), gold_score(prompt, second)
    felt = (scores[0] - scores[1]) / temperature + _logistic(rng)
    if abs(felt) < TIE_WIDTH or first == second:
        return GoldAnswer("all_bad" if max(scores) < BAD_SCORE else "tie", None, 0)
    strength = 1 + (abs(felt) > CLEAR_WIDTH) + (abs(felt) > STRONG_WIDTH)
    return GoldAnswer("preferred", 0 if felt > 0 else 1, strength)


def noise_ceiling(pairs: Iterable[tuple[str, str, str]], temperature: float = TEMPERATURE) -> float:
    """Share of the judgments on (prompt, first, second) that a perfect judge would foresee; ties left out."""
    right = decided = 0.0
    for prompt, first, second in pairs:
        gap = abs(gold_score(prompt, first) - gold_score(prompt, second)) / temperature
        better, worse = _sigmoid(gap - TIE_WIDTH), _sigmoid(-gap - TIE_WIDTH)
        right += better
        decided += better + worse
    return right / decided


def win_rate(prompts: Sequence[str], completions: Sequence[str], baselines: Sequence[str]) -> float:
    """Share of prompts on which the completion scores higher than the baseline; equal scores count half."""
    wins = 0.0
    for prompt, completion, baseline in zip(prompts, completions, baselines, strict=True):
        gap = gold_score(prompt, completion) - gold_score(prompt, baseline)
        wins += 0.5 if abs(gap) < 1e-9 else float(gap > 0)
    return wins / len(prompts)


@lru_cache(maxsize=4096)
def recognise(prompt: str) -> Situation | None:
    """The situation a message is about: that of the most similar phrasing; None if none is similar."""
    words = frozenset(_words(_bare(prompt))) - _slot_words()
    best = max(_phrasings(), key=lambda phrasing: _overlap(words, phrasing[0]))
    alike = _overlap(words, best[0]) >= SIMILAR and words & best[0] - STOP_WORDS
    return BY_NAME[best[1]] if alike else None


def _step_share(prompt: str, completion: str) -> float:
    """How much of the best fitting step a sentence offers, 0 to 1; half of a step is worth a quarter."""
    situation = recognise(prompt)
    offers = [frozenset(words) for words in map(_words, _sentences(completion)) if not REFUSALS & set(words)]
    if situation is None or not offers:
        return 0.0
    return max(len(step & offer) / len(step) for step in _steps(situation.name) for offer in offers) ** 2


def _topic_points(prompt: str, words: Sequence[str]) -> float:
    """Points for naming the matter and the product; fewer than none for talking about another one."""
    situation, said = recognise(prompt), frozenset(words)
    asked_for, named = _slot_words() & set(_words(prompt)) & _products(), said & _products()
    points = PRODUCT_POINTS * bool(asked_for & named) + OTHER_PRODUCT_POINTS * bool(named - asked_for)
    if situation is None:
        return points
    if said & _own_words(situation.name) or any(len(step & said) > 1 for step in _steps(situation.name)):
        return points + MATTER_POINTS
    return points + STRAY_POINTS * (len(said) >= SHORT_WORDS)  # much is said, and about something else


@cache
def _own_words(name: str) -> frozenset[str]:
    """The words by which an answer shows that it is about a situation and hardly any other."""
    return frozenset(word for word in _all_words(name) if _users(word) <= 2)


@cache
def _all_words(name: str) -> frozenset[str]:
    situation = BY_NAME[name]
    return frozenset(word for text in situation.matters + situation.steps for word in _content(text))


@cache
def _users(word: str) -> int:
    """In how many situations a word is at home."""
    return sum(word in _all_words(situation.name) for situation in SITUATIONS)


@cache
def _steps(name: str) -> tuple[frozenset[str], ...]:
    return tuple(_content(step) for step in BY_NAME[name].steps)


@cache
def _phrasings() -> tuple[tuple[frozenset[str], str], ...]:
    return tuple((frozenset(_words(_bare(ask))), each.name) for each in SITUATIONS for ask in each.asks)


@cache
def _products() -> frozenset[str]:
    return frozenset(ANY)


@cache
def _slot_words() -> frozenset[str]:
    return _products() | {day.lower() for day in DAYS} | {"product", "day"}


@cache
def _known_pairs() -> frozenset[tuple[str, str]]:
    """Every pair of neighbouring words within a sentence that the grammar can write."""
    whole = [sentence for style in SENTENCES.values() for part in style for sentence in part]
    pairs: set[tuple[str, str]] = set()
    for situation in SITUATIONS:
        for step, matter in zip(situation.steps, (situation.matters * 2)[:3], strict=True):
            for when in TIMES:
                slots = {"step": step, "matter": matter, "when": when, "curt": "", "rude": ""}
                slots |= {"other": step, "other_matter": matter.replace("your", "his"), "day": "{day}"}
                for sentence in whole:
                    pairs.update(_neighbours(_slotted(sentence.format(**slots))))
        for sentence in situation.curt + situation.rude:
            pairs.update(_neighbours(_slotted(sentence)))
    return frozenset(pairs)


def _unknown_share(completion: str) -> float:
    """Share of neighbouring words that the grammar never puts side by side, 0 to 1."""
    pairs = [pair for sentence in _sentences(completion) for pair in _neighbours(_slotted(sentence))]
    return sum(pair not in _known_pairs() for pair in pairs) / len(pairs) if pairs else 0.0


@cache
def _slotted(sentence: str) -> tuple[str, ...]:
    """The words of a sentence with products and days replaced by their slots."""
    days = {day.lower() for day in DAYS}
    return tuple(
        "product" if word in _products() or word == "order" else "day" if word in days else word
        for word in _words(sentence)
    )


@cache
def _insult_texts() -> frozenset[str]:
    return frozenset(" ".join(_words(rude)) for situation in SITUATIONS for rude in situation.rude)


def _insults(completion: str) -> int:
    """How many sentences of the completion are insults of some situation."""
    return sum(" ".join(_slotted(sentence)) in _insult_texts() for sentence in _sentences(completion))


def _repeated_share(words: Sequence[str]) -> float:
    """Share of neighbouring words that stood in the text before."""
    pairs = list(_neighbours(words))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def _length_points(count: int) -> float:
    short, long = max(SHORT_WORDS - count, 0), max(count - LONG_WORDS, 0)
    return SHORT_POINTS_PER_WORD * short + LONG_POINTS_PER_WORD * long


def _hits(text: str, phrases: Sequence[str], cap: int) -> int:
    """How many of the phrases stand in the text, which has a blank around every word; at most `cap`."""
    return min(sum(f" {phrase} " in text for phrase in phrases), cap)


def _content(text: str) -> frozenset[str]:
    return frozenset(_words(text)) - STOP_WORDS - {"product", "day"}


def _bare(prompt: str) -> str:
    """A message without the greeting and the plea around it."""
    for phrase in sorted({*GREETINGS, *PLEAS}, key=len, reverse=True):
        prompt = prompt.replace(phrase, " ") if phrase else prompt
    return prompt


def _overlap(words: frozenset[str], phrasing: frozenset[str]) -> float:
    phrasing = phrasing - _slot_words()
    return len(words & phrasing) / max(len(words | phrasing), 1)


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text) if sentence.strip()]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def _neighbours(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    return itertools.pairwise(words)


def _sigmoid(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def _logistic(rng: random.Random) -> float:
    """Draw noise whose distribution function is the sigmoid, so that preferences are Bradley-Terry."""
    share = min(max(rng.random(), 1e-12), 1 - 1e-12)
    return math.log(share / (1 - share))
