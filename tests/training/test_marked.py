"""What a policy's run marked for people: listed, put before annotators once, and part of the next round."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db import connection
from django.urls import reverse
from rest_framework.test import APIClient

from labeling.assignment import next_for
from labeling.models import Comparison, Completion, Prompt
from labeling.selection import create_comparison
from tests.training.test_loop import (
    answer_all,
    fresh,
    latest,
    sampled,
    through_the_policy_gate,
    through_the_reward_gate,
)
from training import loop, marked, runs
from training.models import Generation, LoopSettings, RoundComparison, Run

HOSTILE = "<script>alert(document.cookie)</script><img src=x onerror=alert(1)> **bold**"


def mark(run, *rows):
    """Leave marked.jsonl as the engine does. rows: (prompt, completion)."""
    run.path.mkdir(parents=True, exist_ok=True)
    with (run.path / "marked.jsonl").open("w") as file:
        for place, (prompt, text) in enumerate(rows):
            row = {
                "id": str(prompt.pk), "prompt": prompt.messages, "completion": text, "tokens": 5, "temperature": 0.7,
                "sample": place, "ended": True, "reward": 3.5 - place, "held_out_reward": -1.25, "spread": 0.5,
                "reason": "among the highest rewards",
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")


@pytest.fixture
def train_prompts(prompts):
    return [prompt for prompt in prompts if prompt.split == Prompt.Split.TRAIN]


@pytest.fixture
def policy_run(project, prompts, loop_settings, prompts_file):
    """A run that is over and made no version: a guard stopped it before it had anything to keep."""
    reward = runs.register(project, "reward", "models/reward", "")
    run = runs.start(
        project, "ppo", {"prompts": str(prompts_file)}, input_model=loop_settings.policy, reward_model=reward
    )
    runs.fail(runs.claim(run.pk), "Stopped early by a guard: exact KL. It left no usable weights.", 3)
    return Run.objects.get(pk=run.pk)


def test_a_damaged_file_of_marked_samples_is_said_in_the_log_and_the_page_still_opens(
    manager, policy_run, train_prompts, caplog
):
    mark(policy_run, (train_prompts[0], "thanks"))
    with (policy_run.path / "marked.jsonl").open("a") as file:
        file.write("{half a row")
    assert "thanks" not in run_page(manager, policy_run)
    assert f"what run {policy_run.pk} marked cannot be read" in caplog.text


@pytest.fixture
def manager(client, alice):
    client.force_login(alice)
    return client


def run_page(client, run):
    return client.get(reverse("training:run", args=["support", run.pk])).content.decode()


def test_a_marked_sample_is_compared_with_what_the_first_policy_wrote(policy_run, train_prompts):
    prompt, other = train_prompts[:2]
    Completion.objects.add(prompt, "by somebody", "imported")
    first = Completion.objects.add(prompt, "by the first policy", "policy-0")
    Completion.objects.add(other, "by somebody", "imported")
    mark(policy_run, (prompt, "thanks " * 9), (other, "sorry " * 9))
    outcome = marked.put_before_annotators(policy_run)
    comparison, second = outcome.comparisons
    assert {candidate.completion for candidate in comparison.candidates.all()} >= {first}
    assert second.prompt == other, "another completion will do where the first policy wrote none"
    ours = Completion.objects.get(prompt=prompt, author=f"run-{policy_run.pk}")
    generation = Generation.objects.get(completion=ours)
    assert (generation.run, generation.model_version, generation.temperature) == (policy_run, None, 0.7)


def test_two_marked_samples_of_a_prompt_are_compared_once_where_nothing_else_is_there(
    policy_run, train_prompts
):
    prompt, alone = train_prompts[:2]
    mark(policy_run, (prompt, "thanks"), (prompt, "sorry"), (alone, "please"))
    outcome = marked.put_before_annotators(policy_run)
    assert (len(outcome.comparisons), outcome.alone) == (1, 1)
    assert "1 comparison with marked samples" in str(outcome)
    assert "1 was without another answer to the same prompt" in str(outcome)


def test_the_same_text_in_other_letters_is_no_partner(policy_run, train_prompts):
    Completion.objects.add(train_prompts[0], "Thanks  a lot", "policy-0")
    mark(policy_run, (train_prompts[0], "thanks a LOT"))
    assert marked.put_before_annotators(policy_run).alone == 1


def test_marked_samples_are_asked_before_ordinary_comparisons(policy_run, train_prompts, project, bob):
    pair = [Completion.objects.add(train_prompts[1], text, "policy-0") for text in ("one", "two")]
    create_comparison(project, train_prompts[1], pair)
    Completion.objects.add(train_prompts[0], "by the first policy", "policy-0")
    mark(policy_run, (train_prompts[0], "thanks"))
    (comparison,) = marked.put_before_annotators(policy_run).comparisons
    assert next_for(bob, project).comparison == comparison


def test_pressing_twice_makes_nothing_twice(policy_run, train_prompts):
    Completion.objects.add(train_prompts[0], "by the first policy", "policy-0")
    mark(policy_run, (train_prompts[0], "thanks"), (train_prompts[1], "sorry"))
    assert len(marked.put_before_annotators(policy_run).comparisons) == 1
    again = marked.put_before_annotators(policy_run)
    assert (again.comparisons, again.already, again.alone) == ([], 1, 1)
    Completion.objects.add(train_prompts[1], "came later", "policy-0")
    assert len(marked.put_before_annotators(policy_run).comparisons) == 1, "a partner may come later"
    assert Comparison.objects.count() == 2
    assert Generation.objects.filter(run=policy_run).count() == 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("pressed_before", [True, False])
def test_two_managers_at_once_make_nothing_twice(policy_run, train_prompts, pressed_before):
    mark(policy_run, *((prompt, f"marked {n}") for n, prompt in enumerate(train_prompts[:8])))
    if pressed_before:
        assert marked.put_before_annotators(policy_run).alone == 8
    for prompt in train_prompts[:8]:
        Completion.objects.add(prompt, "by the first policy", "policy-0")

    def press(_):
        try:
            return len(marked.put_before_annotators(Run.objects.get(pk=policy_run.pk)).comparisons)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(press, range(4))) == 8
    assert Comparison.objects.count() == 8


def test_held_out_prompts_and_what_cannot_be_read_are_left_out(policy_run, prompts, train_prompts):
    held_out = next(prompt for prompt in prompts if prompt.split == Prompt.Split.EVAL)
    Completion.objects.add(held_out, "by the first policy", "policy-0")
    mark(policy_run, (held_out, "thanks"), (train_prompts[0], "  "), (train_prompts[0], "a\x00b"))
    outcome = marked.put_before_annotators(policy_run)
    assert (outcome.comparisons, outcome.left_out) == ([], 3)
    assert not Completion.objects.filter(author=f"run-{policy_run.pk}").exists()


def test_a_run_that_marked_nothing_or_goes_on_is_refused_in_a_sentence(policy_run, queued_run):
    for run in (policy_run, queued_run):
        with pytest.raises(marked.NothingMarked, match=f"Run {run.pk} left no marked samples"):
            marked.put_before_annotators(run)


def test_the_runs_page_lists_marked_samples_as_text_and_the_button_puts_them_before_annotators(
    manager, policy_run, train_prompts
):
    Completion.objects.add(train_prompts[0], "by the first policy", "policy-0")
    assert "What people should look at" not in run_page(manager, policy_run)
    mark(policy_run, (train_prompts[0], HOSTILE))
    html = run_page(manager, policy_run)
    assert "&lt;script&gt;alert(document.cookie)" in html and "&lt;img src=x" in html
    assert "<script>alert" not in html and "<img src=x" not in html
    assert "Among the highest rewards: reward 3.50, by the held-out model -1.25, members 0.50 apart" in html
    answer = manager.post(reverse("training:run-marked", args=["support", policy_run.pk]), follow=True)
    html = answer.content.decode()
    assert "1 comparison with marked samples put before annotators." in html
    assert "Put before annotators</button>" not in html and ">before annotators</span>" in html
    assert Completion.objects.get(author=f"run-{policy_run.pk}").text == HOSTILE


def test_annotators_read_a_hostile_marked_sample_as_text(client, bob, project, policy_run, train_prompts):
    Completion.objects.add(train_prompts[0], "by the first policy", "policy-0")
    mark(policy_run, (train_prompts[0], HOSTILE))
    marked.put_before_annotators(policy_run)
    client.force_login(bob)
    html = client.get(f"/p/{project.slug}/label/", follow=True).content.decode()
    assert "<script>alert" not in html and "onerror=alert(1)>" not in html


def test_only_managers_put_samples_before_annotators(client, bob, carol, policy_run, train_prompts):
    mark(policy_run, (train_prompts[0], "thanks"), (train_prompts[0], "sorry"))
    for person in (bob, carol):
        client.force_login(person)
        assert client.post(reverse("training:run-marked", args=["support", policy_run.pk])).status_code == 404
    client.force_login(carol)
    assert "What people should look at" in run_page(client, policy_run)
    assert "press-marked" not in run_page(client, policy_run)
    assert not Comparison.objects.exists()


def test_the_api_lists_marked_samples_and_puts_them_before_annotators(
    alice, carol, policy_run, train_prompts
):
    def call(person, method):
        client = APIClient()
        client.force_authenticate(person)
        return getattr(client, method)(f"/api/v1/runs/{policy_run.pk}/marked/")

    assert call(alice, "post").status_code == 409
    mark(policy_run, (train_prompts[0], "thanks"), (train_prompts[0], "sorry"), (train_prompts[1], "please"))
    assert call(carol, "post").status_code == 404
    rows = call(carol, "get").json()
    assert [row["completion"] for row in rows] == ["thanks", "sorry", "please"]
    assert (rows[0]["reward"], rows[0]["spread"], rows[0]["comparison"]) == (3.5, 0.5, None)
    body = call(alice, "post").json()
    comparison = Comparison.objects.get()
    assert (body["comparisons"], body["without_partner"]) == ([comparison.pk], 1)
    assert [row["comparison"] for row in call(alice, "get").json()] == [comparison.pk, comparison.pk, None]
    assert call(alice, "post").json()["already"] == 2


# In the loop


@pytest.fixture
def second_round(project, prompts, train_prompts, loop_settings, bob):
    """Round 2 as it is written, after a round whose policy run marked samples of five prompts."""
    LoopSettings.objects.update(marked_share=0.25, eval_share=0.25)
    first = loop.start_round(project, seed=1)
    loop.advance(first.pk)
    sampled(Run.objects.get())
    loop.advance(first.pk)
    answer_all(project, bob)
    loop.advance(first.pk)
    first = through_the_reward_gate(fresh(first))
    mark(latest(first, "ppo"), *((prompt, f"marked {n}") for n, prompt in enumerate(train_prompts[-5:])))
    through_the_policy_gate(first)
    return loop.start_round(project, seed=2)


def write_candidates(round):
    loop.advance(round.pk)
    for run in Run.objects.filter(round=round, method="generate"):
        sampled(run)
    loop.advance(round.pk)
    return fresh(round)


def test_the_next_round_asks_about_what_the_last_policys_training_marked(second_round, train_prompts):
    loop.advance(second_round.pk)
    for run in Run.objects.filter(round=second_round):
        ids = {int(json.loads(line)["id"]) for line in Path(run.config["prompts"]).read_text().splitlines()}
        assert {prompt.pk for prompt in train_prompts[-5:-1]} <= ids, (
            "so that there is something to compare with"
        )
        assert len(ids) == second_round.target
    round = write_candidates(second_round)
    put = Comparison.objects.filter(in_round__round=round)
    assert put.count() == round.target == 16
    special = put.filter(candidates__completion__text__startswith="marked").distinct()
    assert special.count() == 4, "a quarter of 16"
    assert set(special.values_list("prompt__split", flat=True)) == {"train"}
    assert put.filter(prompt__split="eval").count() == 4, "the held-out share is as it was"
    authors = {
        candidate.completion.author for comparison in special for candidate in comparison.candidates.all()
    }
    assert authors == {f"run-{Run.objects.get(round__number=1, method='ppo').pk}", "policy-0"}


def test_a_share_of_nothing_leaves_marked_samples_to_the_button(second_round):
    LoopSettings.objects.update(marked_share=0)
    write_candidates(second_round)
    assert not Completion.objects.filter(author__startswith="run-").exists()
    assert RoundComparison.objects.filter(round=second_round).count() == 16


def test_a_round_does_not_ask_again_what_the_button_put_before_annotators(second_round):
    run = Run.objects.get(round__number=1, method="ppo")
    put = len(marked.put_before_annotators(run).comparisons)
    round = write_candidates(second_round)
    asked = Comparison.objects.filter(candidates__completion__author=marked.author_of(run)).distinct()
    in_round = asked.filter(in_round__round=round).count()
    assert put + in_round == asked.count() == 5
    assert RoundComparison.objects.filter(round=round).count() == 16


def test_what_a_guards_stop_left_is_asked_about_too(second_round):
    run = Run.objects.get(round__number=1, method="ppo")
    Run.objects.filter(pk=run.pk).update(status="failed")
    round = write_candidates(second_round)
    assert Comparison.objects.filter(
        in_round__round=round, candidates__completion__author=marked.author_of(run)
    ).exists()
