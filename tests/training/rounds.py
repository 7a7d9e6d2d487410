"""Rounds with answers, reward models and scores, made by hand where no engine is to run."""

import uuid
from itertools import count

from django.utils import timezone

from labeling import datasets
from labeling.assignment import next_for
from labeling.judging import record
from labeling.models import Completion, Prompt
from labeling.selection import create_comparison
from training import contributions, runs
from training.models import FreshAnswer, LoopSettings, Round, Score


def ask(project, splits, texts=("kind", "short"), **settings):
    """A comparison for each split named ("train", "eval"), on a new prompt that falls on that side."""
    made, numbers = [], count(project.prompts.count())
    for split in splits:
        offers = (Prompt.build(project, f"Where is parcel {number}?") for number in numbers)
        prompt = next(one for one in offers if one.split == split and not _there(one))
        prompt.save()
        pair = [Completion.objects.add(prompt, f"A {text} answer.", text) for text in texts]
        made.append(create_comparison(project, prompt, pair, **settings))
    return made


def _there(prompt):
    return Prompt.objects.filter(project=prompt.project, content_hash=prompt.content_hash).exists()


def say(person, project, best, **said):
    """Answer everything that waits for the person: whose text holds `best` is better; the others stay in order."""
    given = []
    while assignment := next_for(person, project):
        texts = {one.position: one.completion.text for one in assignment.comparison.candidates.all()}
        order = sorted(texts, key=lambda place: (best not in texts[place], place))
        given.append(
            record(
                assignment,
                "preferred",
                uuid.uuid4(),
                ranking=[[place] for place in order],
                strength=2,
                **said,
            )
        )
    return given


def loop_of(project):
    """A loop whose policy lies nowhere, for what never runs it."""
    first = runs.register(project, "policy", "models/first", "")
    return LoopSettings.objects.create(project=project, first_policy=first, policy=first)


def trained(project, likes=None, **fields):
    """A round that is published, with a reward model that scores 1 what `likes` says and 0 the rest; None: not asked."""
    settings = project.loop_settings
    number = project.rounds.count() + 1
    reward = runs.register(project, "reward", f"models/reward-{number}", "")
    policy = runs.register(project, "policy", f"models/policy-{number}", "")
    version = datasets.freeze(project)
    contributions.count(version)
    round = Round.objects.create(
        **{
            "project": project,
            "number": number,
            "stage": "done",
            "outcome": "published",
            "afterwards": "over",
            "target": 2,
            "policy": settings.policy,
            "reward": reward,
            "new_policy": policy,
            "dataset_version": version,
            "finished_at": timezone.now(),
        }
        | fields
    )
    if round.outcome == "published":
        LoopSettings.objects.filter(pk=settings.pk).update(policy=policy)
        settings.policy = policy
    if likes:
        score(round, reward, likes)
    return round


def score(round, version, likes):
    run = _run(round, "score", version)
    Score.objects.bulk_create(
        Score(model_version=version, completion=one, value=float(likes(one)), run=run)
        for one in Completion.objects.filter(prompt__project=round.project)
    )


def answer_again(round, text="A fresh answer."):
    run = _run(round, "generate", round.new_policy)
    FreshAnswer.objects.bulk_create(
        FreshAnswer(model_version=round.new_policy, prompt=prompt, text=text, run=run)
        for prompt in Prompt.objects.filter(project=round.project)
    )


def _run(round, method, version):
    return round.runs.create(
        project=round.project,
        method=method,
        config={},
        status="done",
        input_model=version,
        stage="scores" if method == "score" else "answers",
        finished_at=timezone.now(),
    )
