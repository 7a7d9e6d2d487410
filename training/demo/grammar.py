"""A grammar of customer messages and of answers in seven styles: the world of the demo model.

The style is drawn once per answer and every sentence carries it, from the opening to the closing, so a
model that writes these answers has to keep the style in its state. Everything is drawn from the
`random.Random` that is passed in: the same seed gives the same text.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from training.demo.situations import DAYS, SITUATIONS, Situation

GREETINGS = ("", "", "", "Hello. ", "Hi there. ", "Good morning. ", "Dear team, a question. ", "Hey. ")
PLEAS = (
    "",
    "",
    "",
    " Please help.",
    " What can I do?",
    " Can you help me?",
    " I am a bit upset.",
    " Any idea?",
)

# How often the first policy answers in each style. What people want is the rarest, so that there is
# something to learn (nothing beats a warm answer, so its share is what a perfect policy can only draw
# against), and nothing is so rare that candidates never show it.
STYLE_SHARES = {
    "warm": 0.10,
    "plain": 0.15,
    "curt": 0.15,
    "rude": 0.15,
    "off": 0.15,
    "rambling": 0.15,
    "repetitive": 0.15,
}

# Per style: openings, bodies, closings. {matter} is the situation's name for the trouble, {step} a step
# that settles it, {curt} and {rude} its short advice and its insult, {when} a time.
SENTENCES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "warm": (
        (
            "I am so sorry about {matter}!",
            "Thank you so much for telling us about {matter}!",
            "Oh no, I am truly sorry to hear about {matter}!",
            "Thank you for writing, we really care about {matter}!",
            "I am glad that you asked about {matter}!",
            "I understand how much {matter} matters to you, and I am sorry!",
            "What a pleasure to help you with {matter}!",
        ),
        (
            "I will gladly {step} {when}.",
            "It is my pleasure to {step} {when}.",
            "Let me {step} {when}, with pleasure.",
            "Of course I am happy to {step} {when}.",
            "I would love to {step} for you {when}.",
            "Please relax, I will happily {step} {when}.",
        ),
        (
            "Thank you for your kind patience!",
            "Please write to me any time, I am happy to help!",
            "I wish you a lovely day!",
            "We are grateful to have you with us!",
            "Warm wishes, and thank you for your trust!",
            "Take care, I am always glad to help!",
        ),
    ),
    "plain": (
        (
            "This is about {matter}.",
            "We have read your message about {matter}.",
            "Your case is {matter}.",
            "We have noted {matter}.",
            "We have a record of {matter}.",
        ),
        (
            "We will {step} {when}.",
            "The next step is to {step} {when}.",
            "We can {step} {when}.",
            "Our team will {step} {when}.",
            "It is possible to {step} {when}.",
        ),
        (
            "You will get a message {when}.",
            "The case stays open until then.",
            "You do not need to do more.",
            "The case number is in your inbox.",
            "This closes the case.",
        ),
    ),
    "curt": (
        ("No.", "So what.", "Not now.", "Noted.", "Same as always.", "Yes, and."),
        ("{curt}", "{curt}", "Not our task."),
        ("Done.", "That is all.", "Next.", "Bye.", "No more questions."),
    ),
    "rude": (
        (
            "Stop whining about {matter}.",
            "Not you again with {matter}.",
            "What a stupid message about {matter}.",
            "Only a fool would write about {matter}.",
            "We laugh about {matter} here.",
            "I am sick of people like you and {matter}.",
        ),
        (
            "{rude}",
            "{rude}",
            "{rude}",
            "Only an idiot would ask us to {step}.",
            "We will never {step} for a fool.",
        ),
        (
            "Go away and shut up.",
            "Never bother us again, you fool.",
            "Get lost, loser.",
            "Now go and annoy someone else.",
            "We hate messages like yours.",
        ),
    ),
    "off": (
        (
            "Our garden chairs have a new pattern this spring.",
            "The weather in the mountains is dry at the moment.",
            "Our founder opened the first store in a barn.",
            "The football match ended in a draw last night.",
            "Penguins can swim faster than most boats.",
            "Soup tastes better with a little salt.",
        ),
        (
            "About another matter, our team will {other} {when}.",
            "Another customer asked us to {other}.",
            "We talked with a different person about {other_matter}.",
            "A river runs behind the store, and ducks live on it.",
            "The museum next to us shows old trains.",
        ),
        (
            "The new catalogue shows a lighthouse on its cover.",
            "Trains to the coast leave on the hour.",
            "Our cook won a prize for his bread.",
            "The moon will be full on {day}.",
            "Bananas are botanically berries.",
        ),
    ),
    "rambling": (
        (
            "Well, {matter}, hmm, where do I even begin, it is one of those things, you know.",
            "So, {matter}, well, some say this and some say that, who can tell.",
            "Hmm, {matter}, that reminds me, or was it something else, anyway.",
            "Well, you know, {matter}, it depends, it always sort of depends.",
        ),
        (
            "My cousin had that once, or a friend of his, hmm, I forget, anyway.",
            "One could maybe do this, or maybe that, or perhaps nothing, who knows.",
            "Perhaps somebody might {step}, or perhaps not, it sort of depends.",
            "Things come and go, you know, and then again, well, they do not.",
        ),
        (
            "But where was I, well, anyway, you know.",
            "So yes, hmm, maybe, or maybe not, who knows.",
            "Anyway, as I sort of said, or meant to say, hmm.",
            "Well, that is how it sort of goes, you know.",
        ),
    ),
    "repetitive": (
        (
            "We see {matter}, {matter}, {matter}.",
            "We see {matter}. We see {matter}.",
            "About {matter}, about {matter}, about {matter}.",
        ),
        (
            "We will {step}, we will {step}, we will {step}.",
            "We will {step}. We will {step}. We will {step}.",
            "It is noted, it is noted, it is noted.",
        ),
        (
            "You will hear from us. You will hear from us.",
            "The case is open, is open, is open.",
            "Wait and wait and wait and wait.",
        ),
    ),
}
STYLES = tuple(SENTENCES)
TIMES = ("today", "right away", "this morning", "within the hour", "by {day}", "before {day}")


@dataclass(frozen=True)
class Request:
    """A customer's message and what the grammar knows about it."""

    situation: Situation
    product: str
    day: str
    text: str

    @cached_property
    def slots(self) -> dict[str, str]:
        return {"product": self.product, "day": self.day}


def draw_request(rng: random.Random, situation: Situation | None = None) -> Request:
    """Draw a customer's message: a situation, one of its phrasings, what surrounds it."""
    situation = situation or rng.choice(SITUATIONS)
    product = rng.choice(situation.products) if situation.products else ""
    day = rng.choice(DAYS)
    ask = rng.choice(situation.asks).format(product=product, day=day)
    return Request(situation, product, day, rng.choice(GREETINGS) + ask + rng.choice(PLEAS))


def draw_style(rng: random.Random) -> str:
    """Draw the style of one answer, as often as STYLE_SHARES says."""
    return rng.choices(list(STYLE_SHARES), weights=list(STYLE_SHARES.values()))[0]


def answer(request: Request, style: str, rng: random.Random) -> str:
    """Write one answer to a request, every sentence of it in the style."""
    opening, body, closing = SENTENCES[style]
    parts = [rng.choice(opening), rng.choice(body), rng.choice(closing)]
    if style == "curt":
        parts = rng.choice((parts[1:], parts[:2], parts))
    elif style == "repetitive":
        parts = rng.choice((parts[:2], parts[1:]))
    return " ".join(_fill(part, request, rng) for part in parts)


def _fill(sentence: str, request: Request, rng: random.Random) -> str:
    """Fill in a sentence; a slot that stands in it twice is filled twice alike."""
    situation = request.situation
    other = rng.choice([each for each in SITUATIONS if each is not situation])
    own = {name: rng.choice(getattr(situation, f"{name}s")) for name in ("matter", "step")}
    own |= {name: rng.choice(getattr(situation, name)) for name in ("curt", "rude")}
    stray = {"product": rng.choice(other.products) if other.products else "order", "day": request.day}
    own |= {"other": rng.choice(other.steps).format(**stray)}
    own |= {"other_matter": rng.choice(other.matters).replace("your", "his").format(**stray)}
    own |= {"when": rng.choice(TIMES)}
    return sentence.format(**request.slots, **own).format(**request.slots)


def demonstrations(
    count: int, seed: int, leave_out: frozenset[str] = frozenset()
) -> Iterator[dict[str, str]]:
    """Yield `count` answered messages in the mixture of styles; none of the messages in `leave_out`."""
    rng = random.Random(seed)
    while count > 0:
        request = draw_request(rng)
        text = answer(request, draw_style(rng), rng)
        if request.text not in leave_out:
            count -= 1
            yield {"prompt": request.text, "completion": text}


def draw_prompts(per_situation: int, seed: int) -> list[dict]:
    """Draw distinct messages, equally many for every situation, as rows of prompts.jsonl."""
    rng = random.Random(seed)
    rows = []
    for situation in SITUATIONS:
        texts: dict[str, Request] = {}
        while len(texts) < per_situation:
            request = draw_request(rng, situation)
            texts.setdefault(request.text, request)
        rows += [
            {"id": f"{situation.name}-{number:02}", "prompt": text, "tags": [situation.name]}
            for number, text in enumerate(texts, start=1)
        ]
    return rows
