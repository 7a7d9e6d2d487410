import json
import re
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
from django.urls import reverse
from django.utils import timezone

from labeling.assignment import flag, next_for
from labeling.models import Completion, Prompt
from labeling.selection import create_comparison
from tests.training.test_loop import (
    GOOD_REWARD,
    answer_all,
    end,
    latest,
    sampled,
    through_the_policy_gate,
    through_the_reward_gate,
)
from training import choices, loop, runs
from training.demo import recipe
from training.models import LoopSettings, Metric, ModelVersion, Promotion, Round, Run, Schedule


@pytest.fixture
def as_person(client):
    def sign_in(person):
        client.force_login(person)
        return client

    return sign_in


@pytest.fixture
def manager(as_person, alice):
    return as_person(alice)


def page(client, name, *args, **query):
    response = client.get(reverse(f"training:{name}", args=["support", *args]), query)
    assert response.status_code == 200
    return response.content.decode()


PAGES = [
    ("loop", ()),
    ("runs", ()),
    ("versions", ()),
    ("run", ("run",)),
    ("loop-live", ()),
    ("run-live", ("run",)),
    ("run-new", ("ppo",)),
    ("schedules", ()),
    ("loop-settings", ()),
]
FOR_READING = {"loop", "runs", "versions", "run", "loop-live", "run-live"}


@pytest.mark.parametrize(("name", "args"), PAGES)
def test_managers_see_every_page_and_others_what_is_theirs(
    as_person, alice, bob, carol, charlie, queued_run, name, args
):
    args = [queued_run.pk if arg == "run" else arg for arg in args]
    address = reverse(f"training:{name}", args=["support", *args])
    assert as_person(alice).get(address).status_code == 200
    assert as_person(bob).get(address).status_code == 404
    assert as_person(charlie).get(address).status_code == 404
    assert as_person(carol).get(address).status_code == (200 if name in FOR_READING else 404)


def test_who_is_not_signed_in_is_sent_to_the_door(client, loop_settings):
    assert client.get("/p/support/loop/").status_code == 302


@pytest.mark.parametrize("act", ["start", "train", "pause", "resume", "retry", "cancel"])
def test_only_managers_press_the_loops_buttons(as_person, bob, carol, loop_settings, act):
    for person in (bob, carol):
        assert as_person(person).post(f"/p/support/loop/{act}/").status_code == 404
    assert not Round.objects.exists()
    loop_settings.refresh_from_db()
    assert not loop_settings.paused


def test_a_run_of_another_project_is_not_shown(manager, queued_run, alice):
    from labeling.models import Membership, Project

    other = Project.objects.create(slug="other", name="Other")
    Membership.objects.create(project=other, user=alice, role="manager")
    assert manager.get(f"/p/other/runs/{queued_run.pk}/").status_code == 404
    assert manager.post(f"/p/other/runs/{queued_run.pk}/stop/").status_code == 404


def test_no_page_needs_an_inline_style_or_script(manager, queued_run):
    for name, args in PAGES:
        html = page(manager, name, *[queued_run.pk if arg == "run" else arg for arg in args])
        assert " style=" not in html and "<style" not in html
        assert not re.search(r"<script(?![^>]*src=)", html)


# The loop's page


def test_a_project_without_a_loop_asks_for_its_first_policy(manager, project, tiny_policy):
    assert "no first policy yet" in page(manager, "loop")
    manager.post("/p/support/loop/first-policy/", {"location": str(tiny_policy)})
    assert LoopSettings.objects.get(project=project).policy.name == "policy-0"


def test_a_report_is_announced_where_there_is_no_loop_yet(manager, client, project, bob, carol, tmp_path):
    prompt = Prompt.objects.add(project, "Which?")
    create_comparison(project, prompt, [Completion.objects.add(prompt, t, t) for t in "ab"])
    assert "Needs you" not in page(manager, "loop")
    flag(next_for(bob, project), "harmful")
    refused = manager.post("/p/support/loop/first-policy/", {"location": str(tmp_path)}).content.decode()
    for shown in (page(manager, "loop"), refused):
        assert "1 comparison was reported by annotators." in shown
        assert f'href="{reverse("labeling:reports", args=[project.slug])}"' in shown
    client.force_login(carol)
    assert "reported" not in page(client, "loop")


def test_a_reviewer_reads_what_needs_a_manager_without_its_links(as_person, alice, carol, loop_settings):
    prompts, of_managers = reverse("labeling:data", args=["support"]), "There are no prompts yet."
    shown = page(as_person(alice), "loop").partition(of_managers)[2]
    assert f'<a class="button" href="{prompts}"' in shown
    _, found, shown = page(as_person(carol), "loop").partition(of_managers)
    assert found and prompts not in shown


def test_a_folder_that_is_no_model_is_refused_with_the_reason(manager, project, tmp_path):
    response = manager.post("/p/support/loop/first-policy/", {"location": str(tmp_path)})
    assert "has no config.json" in response.content.decode()
    assert not LoopSettings.objects.exists()


def test_the_page_says_where_a_round_stands_and_the_button_moves_it_on(
    manager, project, prompts, loop_settings, bob
):
    assert "The first round has not started" in page(manager, "loop")
    manager.post("/p/support/loop/start/")
    round = Round.objects.get()
    loop.advance(round.pk)
    assert "Round 1 is writing candidates" in page(manager, "loop")
    sampled(Run.objects.get())
    loop.advance(round.pk)
    answer_all(project, bob, 9)
    html = page(manager, "loop-live")
    assert "Round 1 is collecting answers" in html
    assert "Trains at 16 answers" in html
    assert re.search(r"9 <small>/ 16</small>", html)
    manager.post("/p/support/loop/train/")
    loop.advance(round.pk)
    assert "Round 1 is training the reward model" in page(manager, "loop-live")


def training_its_reward_model(project, annotator):
    """A round whose comparisons are all judged."""
    round = loop.start_round(project)
    loop.advance(round.pk)
    sampled(Run.objects.get())
    loop.advance(round.pk)
    answer_all(project, annotator)
    loop.advance(round.pk)
    return round


def test_a_refused_gate_needs_the_manager_and_says_the_figure(manager, project, prompts, loop_settings, bob):
    LoopSettings.objects.update(minimum_accuracy_bound=0.5)
    round = training_its_reward_model(project, bob)
    end(latest(round, "reward", held_out=True), GOOD_REWARD, "models/y")
    end(latest(round, "reward"), GOOD_REWARD | {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}, "models/x")
    loop.advance(round.pk)
    html = page(manager, "loop")
    assert "Round 1 halted while checking the reward model" in html
    assert "Needs you" in html
    assert "What the gates of round 1 saw" in html and ">refused<" in html
    assert "0.50 (0.40 to 0.60), needed a lower 95 % bound above 0.50" in html
    assert "Try this stage again" in html and "Start the next round" in html


def test_the_page_shows_the_second_reward_models_figures(manager, project, prompts, loop_settings, bob):
    LoopSettings.objects.update(minimum_accuracy_bound=0.5, minimum_win_rate_bound=0.5)
    round = training_its_reward_model(project, bob)
    runs.claim(latest(round, "reward").pk)
    assert "starting" in page(manager, "loop-live"), "the one that runs is spoken of, not the one that waits"
    Run.objects.filter(pk=latest(round, "reward").pk).update(status="queued")
    of_held_out = GOOD_REWARD | {"accuracy": 0.74, "accuracy_interval": [0.66, 0.81]}
    round = through_the_policy_gate(through_the_reward_gate(round, of_held_out=of_held_out))
    html = page(manager, "loop")
    assert "reward-2, which only watches, 0.74" in html
    assert "by reward-2 65%, 55% to 75%" in html
    assert "watching: 0.74 0.66 to 0.81" in html and "watching: 0.65 0.55 to 0.75" in html
    assert "Win rate by the held-out reward model" in html
    assert "Second judge</dt><dd>reward-2" in page(manager, "run", latest(round, "evaluate").pk)
    assert "Watched by</dt><dd>reward-2" in page(manager, "run", latest(round, "ppo").pk)
    assert page(manager, "versions").count(">held out</span>") == 1
    chosen = choices.defaults(project, "grpo")
    assert (chosen["reward_model"], chosen["held_out_reward_model"]) == (round.reward, round.held_out_reward)


def test_the_page_says_when_the_second_reward_model_is_not_used(
    manager, project, prompts, loop_settings, bob
):
    LoopSettings.objects.update(minimum_accuracy_bound=0.5)
    round = training_its_reward_model(project, bob)
    chance = GOOD_REWARD | {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6]}
    through_the_reward_gate(round, of_held_out=chance)
    html = page(manager, "loop-live")
    assert "reward-2 is not used as the held-out reward model, and the round goes on without it." in html
    assert "training the policy" in html
    assert ">not used<" in page(manager, "loop")


def test_a_second_round_is_refused_in_a_sentence(manager, loop_settings):
    manager.post("/p/support/loop/start/")
    response = manager.post("/p/support/loop/start/", follow=True)
    assert "Round 1 is still writing candidates" in response.content.decode()


def test_pausing_and_going_on(manager, loop_settings):
    manager.post("/p/support/loop/start/")
    manager.post("/p/support/loop/pause/")
    assert "Round 1 is paused" in page(manager, "loop")
    manager.post("/p/support/loop/resume/")
    assert "Round 1 is writing candidates" in page(manager, "loop")


def test_a_run_that_no_worker_takes_needs_the_manager(manager, queued_run):
    Run.objects.update(created_at=timezone.now() - timedelta(minutes=2))
    assert "no worker of the queue gpu takes it" in page(manager, "loop")


def loop_form(**changed):
    values = {
        "comparisons_per_round": 50, "candidates_per_prompt": 4, "first_policy_share": 0.25, "marked_share": 0.2,
        "eval_share": 0.2, "policy_method": "ppo", "reserved_share": 0.2, "kl_budget_nats": 8, "minimum_accuracy_bound": 0.5, "minimum_held_out_pairs": 20,
        "minimum_win_rate_bound": 0.5, "maximum_identical_share": 0.5, "minimum_ended_share": 0.5,
        "overrides": '{"ppo": {"steps": 5}}',
    }  # fmt: skip
    return values | changed


def test_the_demos_own_settings_can_be_saved_again(manager, loop_settings):
    overrides = {"reward": recipe.REWARD, "ppo": recipe.PPO, "grpo": recipe.GRPO, "rloo": recipe.RLOO,
                 "dpo": recipe.DPO, "generate": recipe.GENERATE, "evaluate": recipe.EVALUATE}  # fmt: skip
    manager.post("/p/support/loop/settings/", loop_form(overrides=json.dumps(overrides)))
    loop_settings.refresh_from_db()
    assert loop_settings.comparisons_per_round == 50
    assert loop_settings.overrides["reward"] == recipe.REWARD


def test_the_loops_settings_are_saved(manager, loop_settings):
    manager.post("/p/support/loop/settings/", loop_form())
    loop_settings.refresh_from_db()
    assert loop_settings.comparisons_per_round == 50
    assert (loop_settings.train_held_out_reward, loop_settings.reserved_share) == (False, 0.2)
    assert loop_settings.marked_share == 0.2
    assert loop_settings.overrides == {"ppo": {"steps": 5}}


@pytest.mark.parametrize(
    "overrides",
    [
        '{"ppo": {"steps": 0}}',
        '{"ppo": {"nonsense": 1}}',
        '{"xyz": {}}',
        '["ppo"]',
        '{"ppo": {"rewards": [{"path": "os:system"}]}}',
        '{"ppo": {"rewards": [{"kind": "length", "weight": "much"}]}}',
        "{",
    ],
)
def test_settings_that_the_engine_would_refuse_are_not_saved(manager, loop_settings, overrides):
    before = loop_settings.overrides
    response = manager.post("/p/support/loop/settings/", loop_form(overrides=overrides))
    assert "Nothing was saved" in response.content.decode()
    loop_settings.refresh_from_db()
    assert loop_settings.overrides == before


# Runs


def form_values(html):
    """What a browser would send back of a form that nobody touched."""
    values = {}
    for tag in re.findall(r"<input[^>]*>", html):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name and name[1] != "csrfmiddlewaretoken" and ("checkbox" not in tag or "checked" in tag):
            values[name[1]] = value[1] if value else ""
    for name, options in re.findall(r'<select[^>]*name="([^"]*)"[^>]*>(.*?)</select>', html, re.S):
        chosen = re.search(r'value="([^"]*)" selected', options)
        values[name] = chosen[1] if chosen else re.search(r'value="([^"]*)"', options)[1]
    return values


@pytest.mark.parametrize("method", ["ppo", "grpo", "rloo", "generate", "evaluate", "reward", "score"])
def test_the_form_of_every_method_starts_a_run_as_it_comes(
    manager, project, prompts, loop_settings, tiny_reward, frozen, queued_run, method
):
    end(queued_run)
    (queued_run.path).mkdir(parents=True, exist_ok=True)
    (queued_run.path / "completions.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    html = page(manager, "run-new", method)
    response = manager.post(f"/p/support/runs/new/{method}/", form_values(html))
    assert response.status_code == 302, re.findall(r'class="error"[^>]*>([^<]*)', response.content.decode())
    run = Run.objects.first()
    assert (run.method, run.status, run.requested_by.username) == (method, "queued", "alice")
    assert response.url == f"/p/support/runs/{run.pk}/"


@pytest.fixture
def tiny_reward(project, tiny_policy, tmp_path, loop_settings):
    """A reward model's folder: enough to be named in a config."""
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    return runs.register(project, "reward", str(tmp_path), "")


@pytest.fixture
def frozen(project, prompts, bob):
    from labeling import datasets
    from labeling.models import Completion
    from labeling.selection import create_comparison

    for prompt in prompts:
        pair = [Completion.objects.add(prompt, text, "x") for text in ("short", "longer")]
        create_comparison(project, prompt, pair)
    answer_all(project, bob)
    return datasets.freeze(project)


def test_sft_takes_an_uploaded_file_of_demonstrations(manager, loop_settings):
    from django.core.files.uploadedfile import SimpleUploadedFile

    values = form_values(page(manager, "run-new", "sft"))
    content = b'{"prompt": "hello", "completion": "hello to you"}\n'
    values["choose_demonstrations"] = SimpleUploadedFile("demonstrations.jsonl", content)
    response = manager.post("/p/support/runs/new/sft/", values)
    assert response.status_code == 302, response.content.decode()
    run = Run.objects.get()
    assert Path(run.config["train_data"]).read_bytes() == content


@pytest.fixture
def better_answers(project, bob):
    """Bob has answered comparisons of both splits and bettered an answer in each."""
    from labeling.answers import Better
    from labeling.assignment import next_for
    from labeling.judging import record
    from labeling.models import Completion, Prompt
    from labeling.selection import create_comparison

    for number in range(12):
        prompt = Prompt.objects.add(project, f"Question {number}?")
        create_comparison(project, prompt, [Completion.objects.add(prompt, t, t) for t in ("long", "short")])
        better = Better(0, f"Better {number}.")
        record(next_for(bob, project), "tie", uuid.uuid4(), edit=better)
    return {f"Better {number}." for number in range(12)}


def test_sft_learns_from_the_better_answers_to_training_prompts(manager, loop_settings, better_answers):
    from django.core.files.uploadedfile import SimpleUploadedFile

    from labeling.models import Prompt
    from training.engine.records import DemonstrationRecord, read_records

    values = form_values(page(manager, "run-new", "sft")) | {"choose_better_answers": "on"}
    values["choose_demonstrations"] = SimpleUploadedFile("own.jsonl", b'{"prompt": "a", "completion": "b"}')
    assert manager.post("/p/support/runs/new/sft/", values).status_code == 302
    rows = read_records(Run.objects.get().config["train_data"], DemonstrationRecord)
    assert (rows[0].text, rows[0].completion) == ("a", "b")
    learned = {row.completion for row in rows[1:]}
    assert 0 < len(learned) < len(better_answers) and learned < better_answers
    held_out = {prompt.text for prompt in Prompt.objects.filter(split="eval")}
    assert held_out and not held_out & {row.text for row in rows}


def test_the_engine_reads_rows_with_ratings_and_better_answers(project, better_answers):
    from labeling.exports import stream_preferences
    from training.engine.records import PreferenceRecord

    project.criteria = ["honesty"]
    lines = list(stream_preferences(project, ties="include"))
    rows = [PreferenceRecord.model_validate_json(line) for line in lines]
    assert {row.chosen for row in rows if not row.tie} == better_answers
    assert all(row.criteria == {"honesty": (None, None)} for row in rows)


def test_sft_needs_a_file_or_better_answers(manager, loop_settings):
    html = page(manager, "run-new", "sft")
    assert "Nobody has written one yet." in html
    response = manager.post("/p/support/runs/new/sft/", form_values(html))
    assert "give a file, or take the better answers" in response.content.decode()
    assert not Run.objects.exists()


def test_every_setting_of_the_engine_is_in_the_form_with_its_meaning(manager, loop_settings):
    from training.choices import settings_of
    from training.engine.config import METHODS

    html = page(manager, "run-new", "ppo")
    for name in settings_of("ppo"):
        assert f'name="{name}"' in html
        assert METHODS["ppo"].model_fields[name].description.split(";")[0].split(" null")[0][
            :40
        ] in html.replace("&#x27;", "'")


def test_a_bad_setting_is_said_at_its_field_and_starts_nothing(manager, prompts, loop_settings, tiny_reward):
    values = form_values(page(manager, "run-new", "ppo")) | {"batch_size": "7", "samples_per_prompt": "2"}
    html = manager.post("/p/support/runs/new/ppo/", values).content.decode()
    assert "must be a multiple of samples_per_prompt" in html
    assert not Run.objects.exists()


def test_names_are_given_with_commas_between_them(manager, frozen, tiny_policy, loop_settings):
    values = form_values(page(manager, "run-new", "reward")) | {"criteria": "helpful, harmless"}
    response = manager.post("/p/support/runs/new/reward/", values)
    assert response.status_code == 302, response.content.decode()
    assert Run.objects.get().config["criteria"] == ["helpful", "harmless"]


def test_terms_of_the_reward_are_given_as_a_list_but_no_code_of_the_servers(
    manager, prompts, loop_settings, tiny_reward
):
    values = form_values(page(manager, "run-new", "grpo"))
    for said, complaint in (
        ('{"kind": "length"}', "Give a list of terms"),
        ("[", "Enter a valid JSON"),
        ('[{"kind": "callable", "path": "os:system"}]', "term 1 is a Python function"),
        ('[{"kind": "length", "maximum": 60}, {"path": "os:system"}]', "term 2 is a Python function"),
        ('[{"kind": "length", "maximum": -1}]', "rewards.0.maximum: input should be"),
    ):
        html = manager.post("/p/support/runs/new/grpo/", values | {"rewards": said}).content.decode()
        assert complaint in html, complaint
    assert not Run.objects.exists()
    said = '[{"kind": "length", "maximum": 60, "weight": 0.5}, {"kind": "repetition", "weight": 0.2}]'
    assert manager.post("/p/support/runs/new/grpo/", values | {"rewards": said}).status_code == 302
    terms = Run.objects.get().config["rewards"]
    assert [(term["kind"], term["weight"]) for term in terms] == [("length", 0.5), ("repetition", 0.2)]


def test_a_loop_may_have_terms_of_the_reward(manager, loop_settings):
    said = {"ppo": {"rewards": [{"kind": "regex", "pattern": "(?i)thank"}]}}
    assert manager.post("/p/support/loop/settings/", loop_form(overrides=json.dumps(said))).status_code == 302
    loop_settings.refresh_from_db()
    assert loop_settings.overrides == said


def test_a_version_of_another_project_cannot_be_chosen(manager, prompts, loop_settings, tiny_policy):
    from labeling.models import Project

    foreign = runs.register(
        Project.objects.create(slug="other", name="Other"), "policy", str(tiny_policy), ""
    )
    values = form_values(page(manager, "run-new", "generate")) | {"choose_model": str(foreign.pk)}
    assert manager.post("/p/support/runs/new/generate/", values).status_code == 200
    assert not Run.objects.exists()


def test_the_page_of_a_running_run_shows_progress_and_asks_for_itself(manager, queued_run):
    run = runs.claim(queued_run.pk)
    runs.heartbeat(run, phase="sample", progress_done=30, progress_total=60, seconds_left=95.0)
    html = page(manager, "run", run.pk)
    assert 'hx-trigger="every 2s"' in html
    assert "Sample, 30 of 60, about 2 min left" in html
    assert "Stop</button>" in html
    end_html = end_and_show(manager, run)
    assert "hx-trigger" not in end_html, "a page at rest asks for nothing"
    assert "is done" in end_html


def end_and_show(client, run):
    runs.finish(run, {"length": 7.25, "kl_nats": 1.5, "kl_interval": [1.2, 1.8]})
    html = page(client, "run-live", run.pk)
    assert "7.25" in html and "1.5 (1.2 to 1.8)" in html
    return html


def test_charts_are_drawn_from_what_the_engine_said(manager, project, loop_settings, prompts_file):
    values = {"prompts": str(prompts_file), "rewards": [{"path": "builtins:len"}]}
    run = runs.claim(runs.start(project, "ppo", values, input_model=loop_settings.policy).pk)
    now = timezone.now()
    runs.record(run, [Metric(run=run, step=s, name="exact_kl", value=s / 10, at=now) for s in range(1, 20)])
    html = page(manager, "run-live", run.pk)
    assert "KL to the first policy: KL from 0.1 to 1.9" in html
    assert "budget 10" in html


def test_a_failure_is_told_in_words(manager, queued_run):
    runs.fail(runs.claim(queued_run.pk), "prompts line 2: <b>not</b> JSON", 2)
    html = page(manager, "run", queued_run.pk)
    assert "failed" in html
    assert "prompts line 2: &lt;b&gt;not&lt;/b&gt; JSON" in html


def test_what_a_model_wrote_is_shown_as_text(manager, queued_run):
    run = runs.claim(queued_run.pk)
    run.path.mkdir(parents=True)
    (run.path / "completions.jsonl").write_text(
        '{"prompt": "hi", "completion": "<script>alert(1)</script>"}\n'
    )
    runs.finish(run, {})
    html = page(manager, "run", run.pk)
    assert "&lt;script&gt;alert(1)" in html and "<script>alert" not in html


def test_a_manager_stops_a_run_and_it_is_recorded_who(manager, queued_run, alice):
    runs.claim(queued_run.pk)
    manager.post(f"/p/support/runs/{queued_run.pk}/stop/")
    run = Run.objects.get()
    assert run.stop_requested_at and run.stop_requested_by == alice


def test_a_long_list_of_runs_is_read_page_by_page(manager, project, loop_settings, prompts_file):
    for _ in range(33):
        runs.start(project, "generate", {"prompts": str(prompts_file)}, input_model=loop_settings.policy)
    numbers = list(Run.objects.order_by("-pk").values_list("pk", flat=True))
    first = page(manager, "runs")
    assert f"?before={numbers[29]}" in first
    assert f">{numbers[32]}</a>" in page(manager, "runs", before=numbers[29])


# Versions and schedules


def test_a_manager_rolls_back_on_the_versions_page(manager, project, loop_settings, alice):
    better = runs.register(project, "policy", "models/x", "ab" * 32)
    loop.promote(better)
    assert "policy-1 is in use" in page(manager, "versions")
    assert "Roll back to it" in page(manager, "versions")
    manager.post(f"/p/support/versions/{loop_settings.first_policy.pk}/promote/")
    assert "policy-0 is in use" in page(manager, "versions")
    assert Promotion.objects.first().promoted_by == alice


def test_a_reviewer_reads_versions_without_buttons(as_person, carol, project, loop_settings):
    runs.register(project, "policy", "models/x", "")
    html = page(as_person(carol), "versions")
    assert "policy-1" in html and "<button" not in html.split("<main")[1]
    assert as_person(carol).post(f"/p/support/versions/{loop_settings.policy.pk}/promote/").status_code == 404


def test_schedules_are_edited_on_their_page(manager, loop_settings):
    manager.post(
        "/p/support/schedules/", {"kind": "time", "at": "03:15", "timezone": "Asia/Tokyo", "enabled": "on"}
    )
    manager.post("/p/support/schedules/", {"kind": "amount", "every_preferences": "150", "enabled": "on"})
    html = page(manager, "schedules")
    assert "every day at 03:15 (Asia/Tokyo) and after every 150 new preferences" in html
    for schedule in Schedule.objects.all():
        manager.post(f"/p/support/schedules/remove/{schedule.pk}/")
    assert "The loop trains when you say so" in page(manager, "schedules")


def test_a_schedule_that_makes_no_sense_is_refused(manager, loop_settings):
    manager.post("/p/support/schedules/", {"kind": "time", "at": "25:00", "timezone": "Mars/Base"})
    manager.post("/p/support/schedules/", {"kind": "amount", "every_preferences": "0"})
    assert not Schedule.objects.exists()


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/srv/models/policy", "…/models/policy"),
        ("runs/12/model", "…/12/model"),
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B"),
        ("policy", "policy"),
    ],
)
def test_the_end_of_a_long_location_is_shown_and_a_hub_name_whole(manager, loop_settings, location, shown):
    ModelVersion.objects.update(location=location)
    assert f'title="{location}">{shown}</span>' in page(manager, "versions")


def test_a_round_that_kept_no_times_spoils_no_page(manager, loop_settings):
    Round.objects.create(project=loop_settings.project, number=1, policy=loop_settings.policy, target=2)
    assert "Round 1" in page(manager, "loop")
