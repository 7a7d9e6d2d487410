"""Candidates that a server writes: which servers managers may choose, and who is said to have written what."""

import json

import pytest
from django.core.exceptions import ImproperlyConfigured
from rest_framework.test import APIClient

from config import environment
from labeling.models import Comparison, Completion
from tests.engine.chat_server import ChatServer, completion
from tests.training.test_launch import execute
from tests.training.test_loop import work_off
from tests.training.test_pages import form_values, loop_form, page
from training import loop, process_group, runs
from training.forms import check_overrides
from training.models import Generation, Run

LISTED = "http://gpu7:8000/v1"
SERVED = {"server": LISTED, "server_model_name": "org/large"}
OTHERS = ["http://gpu7:8000", "http://gpu7:8001/v1", "http://169.254.169.254/latest", "https://gpu7:8000/v1"]


@pytest.fixture(autouse=True)
def _listed(settings):
    settings.GENERATION_SERVERS = [LISTED]


@pytest.fixture
def manager(client, alice):
    client.force_login(alice)
    return client


@pytest.fixture
def chat(settings):
    """A server whose model never says the same twice, listed by the operator."""
    server = ChatServer(lambda body: completion(f"served {body['seed']}"))
    settings.GENERATION_SERVERS = [server.url]
    yield server
    server.close()


def api(person, settings):
    client = APIClient()
    client.force_authenticate(person)
    sent = {"method": "generate", "model": "policy-0", "prompts": "train", "config": settings}
    return client.post("/api/v1/projects/support/runs/", sent, format="json")


# Which servers


@pytest.mark.parametrize("url", OTHERS)
def test_over_rest_only_a_listed_server_can_be_asked(alice, prompts, loop_settings, url):
    refused = api(alice, SERVED | {"server": url})
    assert refused.status_code == 400
    assert "only servers that the operator has listed" in refused.json()["fields"]["server"][0]
    assert not Run.objects.exists()
    started = api(alice, SERVED | {"server": "HTTP://GPU7:8000/v1/"})
    assert started.status_code == 201 and started.json()["config"]["server"] == LISTED


def test_where_none_is_listed_none_can_be_asked(alice, prompts, loop_settings, settings):
    settings.GENERATION_SERVERS = []
    assert api(alice, SERVED).status_code == 400
    assert not Run.objects.exists()


def test_a_password_in_an_address_is_refused_and_not_said(alice, prompts, loop_settings):
    refused = api(alice, SERVED | {"server": "http://me:hidden@gpu7:8000/v1"})
    assert refused.status_code == 400 and "hidden" not in refused.content.decode()


def test_the_served_model_must_be_named(alice, prompts, loop_settings):
    refused = api(alice, {"server": LISTED})
    assert "who wrote the candidates" in refused.json()["fields"]["server_model_name"][0]


def test_the_form_offers_the_listed_servers(manager, prompts, loop_settings):
    html = page(manager, "run-new", "generate")
    assert f'<option value="{LISTED}">' in html
    values = form_values(html)
    assert (values["server"], values["server_model_name"]) == ("", "")
    address = "/p/support/runs/new/generate/"
    for url in OTHERS:
        refused = manager.post(address, values | SERVED | {"server": url}).content.decode()
        assert "Only servers that the operator has listed can be asked" in refused
    assert "goes with server" in manager.post(address, values | {"server_model_name": "x"}).content.decode()
    assert not Run.objects.exists()
    assert manager.post(address, values | SERVED).status_code == 302
    config = Run.objects.get().config
    assert {name: config[name] for name in SERVED} == SERVED
    assert "<dd>org/large</dd>" in page(manager, "run", Run.objects.get().pk)


@pytest.mark.parametrize("said", [SERVED | {"server": OTHERS[0]}, {"server": LISTED}, {"server": "nonsense"}])
def test_the_loops_settings_take_only_a_listed_server_with_its_model(manager, loop_settings, said):
    before = loop_settings.overrides
    response = manager.post("/p/support/loop/settings/", loop_form(overrides=json.dumps({"generate": said})))
    assert "Nothing was saved" in response.content.decode()
    loop_settings.refresh_from_db()
    assert loop_settings.overrides == before
    check_overrides("generate", SERVED)


def test_a_round_halts_once_its_server_is_no_longer_listed(project, prompts, loop_settings, settings):
    loop_settings.overrides["generate"] |= SERVED
    loop_settings.save(update_fields=["overrides"])
    settings.GENERATION_SERVERS = []
    round = loop.start_round(project)
    loop.advance(round.pk)
    round.refresh_from_db()
    assert round.outcome == "halted" and "only servers that the operator has listed" in round.message
    assert not Run.objects.exists()


def test_the_operators_list_is_read_in_one_spelling_and_a_bad_address_stops_the_start(monkeypatch):
    name = "TASTEMAKER_GENERATION_SERVERS"
    monkeypatch.setenv(name, "http://a:1/v1, HTTPS://B.example/")
    assert environment.servers(name) == ["http://a:1/v1", "https://b.example"]
    monkeypatch.setenv(name, "http://a:1/v1, http://me:hidden@b/v1")
    with pytest.raises(
        ImproperlyConfigured, match=f"^{name}: address 2 may hold no name, password or key"
    ) as said:
        environment.servers(name)
    assert "hidden" not in str(said.value)


# Who wrote what, and who sees the key


def test_a_rounds_candidates_are_the_served_models_and_the_key_stays_with_the_engine(
    project, prompts, loop_settings, chat, settings
):
    settings.GENERATION_SERVER_KEY = "sk-secret"
    loop_settings.policy = runs.register(project, "policy", loop_settings.first_policy.location, "")
    loop_settings.overrides["generate"] |= {"server": chat.url, "server_model_name": "org/large"}
    loop_settings.save(update_fields=["policy", "overrides"])
    round = loop.start_round(project, seed=7)
    loop.advance(round.pk)
    run = Run.objects.get()
    assert run.config["samples_per_prompt"] == 3, "the first policy has no share of its own"
    work_off()
    loop.advance(round.pk)
    run.refresh_from_db()
    assert run.status == "done", run.message
    assert {(body["model"], headers["Authorization"]) for _, _, headers, body in chat.asked} == {
        ("org/large", "Bearer sk-secret")
    }
    assert set(Completion.objects.values_list("author", flat=True)) == {"org/large"}
    assert set(Generation.objects.values_list("model_version", "run", "tokens")) == {(None, run.pk, 3)}
    assert Comparison.objects.count() == 16
    assert not [path for path in run.path.rglob("*") if path.is_file() and b"sk-secret" in path.read_bytes()]


def test_the_key_is_shown_to_no_other_run(queued_run, settings, monkeypatch):
    settings.GENERATION_SERVER_KEY = "sk-secret"
    monkeypatch.setenv("TASTEMAKER_SERVER_KEY", "sk-secret")
    seen, popen = [], process_group.subprocess.Popen

    def note(*args, **options):
        seen.append(options["env"])
        return popen(["true"], **options)

    monkeypatch.setattr(process_group.subprocess, "Popen", note)
    execute(queued_run)
    assert len(seen) == 1 and "sk-secret" not in seen[0].values()
