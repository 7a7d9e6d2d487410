import random
import uuid

import pytest

from labeling.assignment import next_for
from labeling.judging import record
from labeling.models import Comparison, DatasetVersion
from training import launch, loop, runs
from training.models import Generation, ModelVersion, Promotion, Round, RoundComparison, Run


def work_off():
    """What a worker does, without a broker: every queued run, once."""
    for run_id in list(Run.objects.unfinished().order_by("id").values_list("pk", flat=True)):
        if run := runs.claim(run_id):
            launch.execute(run)


def answer_all(project, person, limit=10_000):
    """The person likes longer answers, with some noise."""
    rng = random.Random(0)
    given = 0
    while given < limit and (assignment := next_for(person, project)):
        texts = {c.position: c.completion.text for c in assignment.comparison.candidates.select_related("completion")}
        best = sorted(texts, key=lambda place: len(texts[place]) + rng.gauss(0, 3), reverse=True)
        record(assignment, "preferred", uuid.uuid4(), ranking=[[place] for place in best], strength=2)
        given += 1
    return given


def fresh(round):
    return Round.objects.get(pk=round.pk)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_round_closes_and_the_next_starts_from_its_policy(project, prompts, loop_settings, bob, alice):
    first = loop_settings.policy
    round = loop.start_round(project, alice, seed=7)
    loop.advance(round.pk)
    generate = Run.objects.get(round=round)
    assert (generate.method, generate.status, generate.input_model) == ("generate", "queued", first)
    loop.advance(round.pk)
    assert Run.objects.count() == 1, "looking twice starts nothing twice"

    work_off()
    loop.advance(round.pk)
    assert fresh(round).stage == "collect"
    put = RoundComparison.objects.filter(round=round)
    assert put.count() == fresh(round).target == 16
    splits = set(put.values_list("comparison__prompt__split", flat=True))
    assert splits == {"train", "eval"}, "there are held-out pairs"
    assert set(Generation.objects.values_list("model_version__name", "completion__author")) == {("policy-0", "policy-0")}
    assert set(Generation.objects.values_list("temperature", flat=True)) == {0.9, 1.2}
    for comparison in Comparison.objects.all():
        texts = [candidate.completion.text for candidate in comparison.candidates.all()]
        assert len(set(texts)) == 2

    answer_all(project, bob, 15)
    loop.advance(round.pk)
    assert fresh(round).stage == "collect", "one answer is missing"
    answer_all(project, bob)
    loop.advance(round.pk)
    assert fresh(round).stage == "reward"
    assert fresh(round).collected == 16
    reward_run = Run.objects.get(round=round, method="reward")
    assert reward_run.input_model == first
    assert reward_run.dataset_version == fresh(round).dataset_version == DatasetVersion.objects.get()

    for _ in range(3):  # reward model, policy, evaluation
        work_off()
        loop.advance(round.pk)
    done = fresh(round)
    assert (done.stage, done.outcome) == ("done", "published"), done.message
    assert done.reward.name == "reward-1"
    assert done.new_policy.name == "policy-1"
    assert done.new_policy.parent == first
    assert done.new_policy.run.reward_model == done.reward
    assert done.new_policy.metrics["evaluation"]["kl_nats"] >= 0
    assert {"reward_gate", "policy_gate"} == set(done.gates)
    assert set(done.seconds_by_stage()) == set(Round.Stage.values) - {"done"}
    loop_settings.refresh_from_db()
    assert loop_settings.policy == done.new_policy
    promotion = Promotion.objects.get(version=done.new_policy)
    assert (promotion.previous, promotion.promoted_by, promotion.round) == (first, None, done)

    second = loop.start_round(project, alice, seed=8)
    loop.advance(second.pk)
    authors = set(Run.objects.filter(round=second).values_list("input_model__name", "config__samples_per_prompt"))
    assert authors == {("policy-1", 2), ("policy-0", 1)}, "a share of the candidates comes from the first policy"
