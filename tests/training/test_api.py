import pytest
from django.urls import resolve, reverse
from django.utils import timezone
from rest_framework.test import APIClient

from labeling.projects import create_project
from training import loop, runs
from training.api.urls import urlpatterns
from training.models import Metric, Round, Run


@pytest.fixture
def call(project):
    """Call the API as a person, with a token."""
    from knox.models import AuthToken

    def call(person, method, path, data=None):
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Token {AuthToken.objects.create(person)[1]}")
        return getattr(client, method)(f"/api/v1/{path}", data, format="json")

    return call


ADDRESSES = [
    ("get", "projects/support/runs/"),
    ("get", "projects/support/models/"),
    ("get", "projects/support/rounds/"),
    ("get", "runs/{run}/"),
    ("get", "runs/{run}/metrics/"),
    ("get", "models/{model}/files/"),
    ("get", "models/{model}/files/config.json/"),
    ("get", "runs/{run}/marked/"),
    ("post", "runs/{run}/marked/"),
    ("get", "rounds/{round}/"),
    ("post", "projects/support/runs/"),
    ("post", "projects/support/rounds/"),
    ("post", "runs/{run}/stop/"),
    ("post", "models/{model}/promote/"),
    ("post", "rounds/{round}/train/"),
    ("post", "rounds/{round}/retry/"),
    ("post", "rounds/{round}/cancel/"),
]


def test_every_route_is_among_the_addresses():
    named = {path.format(run=1, model=1, round=1) for _, path in ADDRESSES}
    reached = {resolve(f"/api/v1/{path}").url_name for path in named}
    assert reached == {pattern.name for pattern in urlpatterns}


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
def test_annotators_and_strangers_find_nothing_and_reviewers_only_read(
    call, alice, bob, carol, charlie, queued_run, loop_settings, method, path
):
    round = loop.start_round(queued_run.project)
    path = path.format(run=queued_run.pk, model=loop_settings.policy.pk, round=round.pk)
    assert call(charlie, method, path).status_code == 404
    assert call(bob, method, path).status_code == 404
    assert call(carol, method, path).status_code == (200 if method == "get" else 404)
    assert APIClient().get(f"/api/v1/{path}").status_code in (401, 405)
    assert Run.objects.get(pk=queued_run.pk).status == "queued", "nothing was done"
    assert Round.objects.get().outcome == ""
    assert call(alice, method, path).status_code not in (403, 404)


@pytest.mark.parametrize(("method", "path"), ADDRESSES)
def test_a_manager_of_another_project_finds_none_of_these_rows(
    call, charlie, queued_run, loop_settings, method, path
):
    create_project("Elsewhere", charlie)
    round = loop.start_round(queued_run.project)
    path = path.format(run=queued_run.pk, model=loop_settings.policy.pk, round=round.pk)
    assert call(charlie, method, path).status_code == 404


def test_a_run_is_started_by_names_followed_and_stopped(call, alice, prompts, loop_settings):
    started = call(
        alice,
        "post",
        "projects/support/runs/",
        {"method": "generate", "model": "policy-0", "prompts": "eval", "config": {"samples_per_prompt": 3}},
    )
    assert started.status_code == 201, started.json()
    body = started.json()
    assert (body["status"], body["model"], body["requested_by"]) == ("queued", "policy-0", "alice")
    assert body["config"]["samples_per_prompt"] == 3

    run = runs.claim(body["id"])
    metrics = [
        Metric(run=run, step=step, name="length", value=step / 2, at=timezone.now()) for step in (1, 2, 3)
    ]
    runs.record(run, metrics, phase="sample", progress_done=3, progress_total=9)
    assert call(alice, "get", f"runs/{run.pk}/").json()["progress_done"] == 3
    rows = call(alice, "get", f"runs/{run.pk}/metrics/?name=length&after=1").json()
    assert rows == [{"name": "length", "step": 2, "value": 1.0}, {"name": "length", "step": 3, "value": 1.5}]

    assert call(alice, "post", f"runs/{run.pk}/stop/").status_code == 202
    assert Run.objects.get(pk=run.pk).stop_requested_by == alice


def test_a_second_reward_model_watches_the_run_that_the_first_one_judges(
    call, alice, project, prompts, loop_settings
):
    for number in (1, 2):
        runs.register(project, "reward", f"models/reward-{number}", "")
    sent = {
        "method": "grpo", "model": "policy-0", "prompts": "train",
        "reward_model": "reward-1", "held_out_reward_model": "reward-2",
    }  # fmt: skip
    body = call(alice, "post", "projects/support/runs/", sent).json()
    assert body["config"]["reward_model"].endswith("models/reward-1")
    assert body["config"]["held_out_reward_model"].endswith("models/reward-2")
    refused = call(alice, "post", "projects/support/runs/", sent | {"held_out_reward_model": "reward-1"})
    assert refused.status_code == 400 and "another model" in str(refused.json())
    policy = call(alice, "post", "projects/support/runs/", sent | {"held_out_reward_model": "policy-0"})
    assert policy.json()["fields"] == {"held_out_reward_model": ["the project has no policy-0 for this"]}


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ({"method": "nonsense"}, "method"),
        ({"method": "generate", "prompts": "train"}, "model"),
        ({"method": "generate", "model": "policy-9", "prompts": "train"}, "model"),
        ({"method": "generate", "model": "policy-0", "prompts": "train", "config": {"top_p": 2}}, "top_p"),
        (
            {
                "method": "generate",
                "model": "policy-0",
                "prompts": "train",
                "config": {"prompts": "/etc/passwd"},
            },
            "prompts",
        ),
        (
            {"method": "generate", "model": "policy-0", "prompts": "train", "config": {"model": "/tmp"}},
            "model",
        ),
        (
            {
                "method": "ppo",
                "model": "policy-0",
                "prompts": "train",
                "config": {"rewards": [{"path": "os:system"}]},
            },
            "rewards",
        ),
        (
            {"method": "generate", "model": "policy-0", "prompts": "train", "reward_model": "reward-1"},
            "reward_model",
        ),
        ({"method": "generate", "model": "policy-0", "prompts": "train", "typo": 1}, "typo"),
    ],
)
def test_what_cannot_be_run_is_refused_at_its_field(call, alice, prompts, loop_settings, sent, field):
    response = call(alice, "post", "projects/support/runs/", sent)
    assert response.status_code == 400
    assert field in response.json()["fields"], response.json()
    assert not Run.objects.exists()


def test_a_round_is_started_once_and_shows_where_it_stands(call, alice, project, loop_settings):
    started = call(alice, "post", "projects/support/rounds/", {"seed": 11})
    assert started.status_code == 201
    assert (started.json()["stage"], started.json()["seed"], started.json()["policy"]) == (
        "generate",
        11,
        "policy-0",
    )
    again = call(alice, "post", "projects/support/rounds/", {})
    assert again.status_code == 409
    assert "Round 1 is still writing candidates" in again.json()["detail"]
    listed = call(alice, "get", "projects/support/rounds/").json()["results"]
    assert [row["number"] for row in listed] == [1]
    round = Round.objects.get()
    assert call(alice, "post", f"rounds/{round.pk}/train/").status_code == 200
    assert call(alice, "post", f"rounds/{round.pk}/retry/").status_code == 409
    assert call(alice, "post", f"rounds/{round.pk}/cancel/").json()["outcome"] == "cancelled"


def test_a_round_tells_what_both_reward_models_got_right(call, alice, project, loop_settings):
    round = loop.start_round(project)
    found = {"accuracy": 0.7, "accuracy_interval": [0.4, 0.8], "pairs": 30, "prompts": 9}
    made = [runs.register(project, "reward", f"models/{n}", "", metrics=found | {"pairs": n}) for n in (1, 2)]
    check = {
        "name": "held-out accuracy",
        "passed": False,
        "figure": "0.70",
        "needed": "more",
        "advice": "Wait.",
    }
    Round.objects.filter(pk=round.pk).update(
        reward=made[0], held_out_reward=made[1], gates={"held_out": [check]}
    )
    body = call(alice, "get", f"rounds/{round.pk}/").json()
    assert (body["reward"], body["held_out_reward"]) == ("reward-1", "reward-2")
    assert (body["accuracy"]["pairs"], body["held_out_accuracy"]["pairs"]) == (1, 2)
    assert "reward-2 is not used" in body["remark"]


def test_versions_say_which_is_in_use_and_weights_are_fetched(
    call, alice, project, loop_settings, tiny_policy
):
    better = runs.register(project, "policy", str(tiny_policy), "ab", parent=loop_settings.policy)
    assert call(alice, "post", f"models/{better.pk}/promote/").json()["in_use"] is True
    rows = call(alice, "get", "projects/support/models/").json()["results"]
    assert [(row["name"], row["in_use"], row["parent"]) for row in rows] == [
        ("policy-1", True, "policy-0"),
        ("policy-0", False, None),
    ]
    files = {row["name"]: row for row in call(alice, "get", f"models/{better.pk}/files/").json()}
    assert {"config.json", "model.safetensors"} <= set(files)
    path = files["model.safetensors"]["url"].split("/api/v1/")[1]
    fetched = b"".join(call(alice, "get", path).streaming_content)
    assert fetched == (tiny_policy / "model.safetensors").read_bytes()
    assert call(alice, "get", f"models/{better.pk}/files/..%2Fsecret").status_code == 404


def test_the_adapter_of_a_model_is_listed_and_fetched_and_nothing_above_it(
    call, alice, project, loop_settings, tmp_path
):
    folder = tmp_path / "model"
    (folder / "adapter").mkdir(parents=True)
    (folder / "private").mkdir()
    for name in ("config.json", "adapter/adapter_config.json", "private/notes.txt", "../secret"):
        (folder / name).write_text(name)
    version = runs.register(project, "policy", str(folder), "ab")
    files = {row["name"]: row for row in call(alice, "get", f"models/{version.pk}/files/").json()}
    assert sorted(files) == ["adapter/adapter_config.json", "config.json"]
    assert files["adapter/adapter_config.json"]["bytes"] == len("adapter/adapter_config.json")
    path = files["adapter/adapter_config.json"]["url"].split("/api/v1/")[1]
    answer = call(alice, "get", path)
    assert b"".join(answer.streaming_content) == b"adapter/adapter_config.json"
    assert 'filename="adapter_config.json"' in answer["Content-Disposition"]
    for name in ("../secret", "adapter/../../secret", "..%2Fsecret", "private/notes.txt", "adapter"):
        assert call(alice, "get", f"models/{version.pk}/files/{name}/").status_code == 404, name


def test_the_list_of_runs_is_read_page_by_page(call, alice, project, loop_settings, prompts_file):
    for _ in range(5):
        runs.start(project, "generate", {"prompts": str(prompts_file)}, input_model=loop_settings.policy)
    first = call(alice, "get", "projects/support/runs/?limit=3").json()
    assert len(first["results"]) == 3 and first["next"]
    second = call(alice, "get", first["next"].split("/api/v1/")[1]).json()
    assert len(second["results"]) == 2


def test_lists_cost_the_same_number_of_queries_however_long(
    call, alice, project, loop_settings, prompts_file, django_assert_max_num_queries
):
    for _ in range(8):
        runs.start(project, "generate", {"prompts": str(prompts_file)}, input_model=loop_settings.policy)
    with django_assert_max_num_queries(15):
        call(alice, "get", "projects/support/runs/")


def test_the_description_of_the_api_names_every_address(client, alice):
    client.force_login(alice)
    schema = client.get(reverse("schema")).content.decode()
    for path in (
        "/runs/{id}/metrics/",
        "/projects/{slug}/rounds/",
        "/models/{id}/promote/",
        "/rounds/{id}/train/",
    ):
        assert path in schema
