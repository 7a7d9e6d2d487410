"""Home, people, data, guidelines and tokens through the client, as each of the cast."""

import hashlib
import io
import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import transaction
from knox.models import get_token_model

from labeling.judging import withdraw
from labeling.models import DatasetVersion, Membership, Project, Prompt, User
from labeling.projects import create_project, save_guidelines
from labeling.views.people import invite, work_by_person
from tests.labeling.conftest import rows_read


@pytest.fixture
def as_alice(client, alice):
    client.force_login(alice)
    return client


def secret(response):
    return re.search(r"data-secret>([^<]+)<", response.content.decode())[1]


def upload(client, project, text, kind="prompts", **more):
    file = SimpleUploadedFile("words.jsonl", text.encode())
    return client.post(f"/p/{project.slug}/data/import/", {"kind": kind, "file": file} | more)


# Who sees what


def test_pages_lead_a_signed_out_person_to_the_door(client, project):
    for path in ("/", "/tokens/", "/account/", f"/p/{project.slug}/", f"/p/{project.slug}/label/"):
        response = client.get(path)
        assert response.status_code == 302 and response["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize("path", ["people/", "data/", "settings/"])
def test_managers_pages_are_404_for_everyone_else(client, project, bob, carol, charlie, path):
    for person in (bob, carol, charlie):
        client.force_login(person)
        assert client.get(f"/p/{project.slug}/{path}").status_code == 404


@pytest.mark.parametrize("path", ["data/import/", "data/freeze/", "people/", "settings/"])
def test_managers_acts_are_404_for_everyone_else(client, project, bob, charlie, path):
    for person in (bob, charlie):
        client.force_login(person)
        assert (
            client.post(f"/p/{project.slug}/{path}", {"username": "eve", "role": "manager"}).status_code
            == 404
        )
    assert not User.objects.filter(username="eve").exists()


def test_an_annotator_reads_the_guidelines_and_cannot_write_them(client, project, bob):
    client.force_login(bob)
    path = f"/p/{project.slug}/guidelines/"
    assert client.get(path).status_code == 200
    assert "<textarea" not in client.get(path + "?edit").content.decode()
    assert client.post(path, {"guidelines": "mine"}).status_code == 404
    project.refresh_from_db()
    assert project.guidelines == ""


def test_a_project_leads_each_person_to_their_work(client, project, bob, carol, charlie):
    for person, where in [(bob, "label/"), (carol, "guidelines/")]:
        client.force_login(person)
        assert client.get(f"/p/{project.slug}/")["Location"] == f"/p/{project.slug}/{where}"
    client.force_login(charlie)
    assert client.get(f"/p/{project.slug}/").status_code == 404


# Home


def test_home_says_whether_comparisons_wait(client, project, bob, make_comparison, answer):
    client.force_login(bob)
    assert "No comparison waits for you" in client.get("/").content.decode()
    make_comparison()
    assert "Comparisons wait for you" in client.get("/").content.decode()
    answer(bob)
    assert "No comparison waits for you" in client.get("/").content.decode()


def test_a_manager_makes_a_project_and_manages_it(as_alice, alice, project):
    response = as_alice.post("/", {"name": "New & bold", "overlap": 2})
    made = Project.objects.get(name="New & bold")
    assert response["Location"] == f"/p/{made.slug}/data/"
    assert made.overlap == 2
    assert Membership.objects.get(project=made).user == alice


def test_an_annotator_cannot_make_a_project(client, project, bob):
    client.force_login(bob)
    assert "New project" not in client.get("/").content.decode()
    assert client.post("/", {"name": "Mine", "overlap": 1}).status_code == 404
    assert Project.objects.count() == 1


def test_a_project_with_a_bad_value_says_so_at_the_field_and_keeps_what_was_typed(as_alice, project):
    html = as_alice.post("/", {"name": "Many", "overlap": 101}).content.decode()
    assert 'id="id_overlap_error"' in html and 'value="Many"' in html
    assert Project.objects.count() == 1


# People


def test_a_new_person_gets_a_password_that_is_shown_once_and_works(as_alice, client, project):
    response = as_alice.post(f"/p/{project.slug}/people/", {"username": "dana", "role": "annotator"})
    password = secret(response)
    assert password not in as_alice.get(f"/p/{project.slug}/people/").content.decode()
    assert "no-store" in response["Cache-Control"]
    client.logout()
    assert client.post("/accounts/login/", {"login": "dana", "password": password}).status_code == 302
    assert client.get(f"/p/{project.slug}/label/").status_code == 200


def test_an_existing_person_joins_with_the_password_they_have(as_alice, project, charlie):
    before = charlie.password
    response = as_alice.post(f"/p/{project.slug}/people/", {"username": "charlie", "role": "annotator"})
    charlie.refresh_from_db()
    assert response.status_code == 302 and charlie.password == before
    assert Membership.objects.get(project=project, user=charlie).role == "annotator"


def test_a_role_is_changed_and_taken_away(as_alice, project, bob):
    place = Membership.objects.get(project=project, user=bob)
    path = f"/p/{project.slug}/people/{place.pk}/role/"
    as_alice.post(path, {"role": "reviewer"})
    place.refresh_from_db()
    assert place.role == "reviewer"
    as_alice.post(path, {"role": "leave"})
    as_alice.force_login(bob)
    assert as_alice.get(f"/p/{project.slug}/guidelines/").status_code == 404


def test_the_last_manager_cannot_leave(as_alice, alice, project):
    place = Membership.objects.get(project=project, user=alice)
    as_alice.post(f"/p/{project.slug}/people/{place.pk}/role/", {"role": "leave"})
    html = as_alice.get(f"/p/{project.slug}/people/").content.decode()
    assert "keeps at least one manager" in html


def test_a_member_of_another_project_cannot_be_changed_through_this_one(as_alice, project, charlie):
    other = Project.objects.create(slug="other", name="Other")
    place = Membership.objects.create(project=other, user=charlie, role="annotator")
    assert as_alice.post(f"/p/{project.slug}/people/{place.pk}/role/", {"role": "leave"}).status_code == 404
    assert as_alice.post(f"/p/{project.slug}/people/{place.pk}/password/").status_code == 404


def test_a_manager_resets_the_password_of_their_own_annotator_only(as_alice, alice, project, bob):
    place = Membership.objects.get(project=project, user=bob)
    path = f"/p/{project.slug}/people/{place.pk}/password/"
    password = secret(as_alice.post(path))
    bob.refresh_from_db()
    assert bob.check_password(password)
    other = Project.objects.create(slug="other", name="Other")
    Membership.objects.create(project=other, user=bob, role="annotator")
    assert as_alice.post(path).status_code == 403
    own = Membership.objects.get(project=project, user=alice)
    assert as_alice.post(f"/p/{project.slug}/people/{own.pk}/password/").status_code == 403


@pytest.mark.parametrize("right", ["is_staff", "is_superuser"])
def test_a_manager_cannot_take_over_an_administrator(as_alice, project, bob, right):
    User.objects.filter(pk=bob.pk).update(**{right: True})
    place = Membership.objects.get(project=project, user=bob)
    assert as_alice.post(f"/p/{project.slug}/people/{place.pk}/password/").status_code == 403


def test_people_shows_what_each_has_given(
    as_alice, project, bob, make_annotator, make_comparison, many_finished, answer
):
    idle = make_annotator()
    for _ in range(3):
        make_comparison(overlap=2)
        answer(bob)
    many_finished(2, outcome="skipped")
    many_finished(1, outcome="flagged")
    html = as_alice.get(f"/p/{project.slug}/people/").content.decode()

    def numbers(person):
        row = html[html.index(f"<bdi>{person.username}</bdi>") :]
        return re.findall(r'<td class="number[^>]*>(\d+)<', row[: row.index("</tr>")])

    assert numbers(bob) == ["3", "2", "1"] and numbers(idle) == ["0", "0", "0"]
    assert html.index("<bdi>bob</bdi>") < html.index("<bdi>alice</bdi>")  # whoever gave most stands first


def test_people_reads_the_projects_answers_once(alice, project, bob, many_finished):
    other = create_project("Other", alice)
    for outcome in ("judged", "skipped", "flagged"):
        many_finished(3_000, project=other, outcome=outcome)
    many_finished(2_000)
    many_finished(2, outcome="skipped")
    # Each answer and its comparison, a few times on their way; none anew for each person, and none of the other's.
    assert rows_read(lambda: work_by_person(project)) < 12 * 2_000
    given = work_by_person(project)[bob.pk]
    assert (given.answers, given.skipped, given.flagged) == (2_000, 2, 0) and given.last_answer


# Data


def test_prompts_are_imported_from_a_file(as_alice, project):
    html = upload(as_alice, project, '{"prompt": "One?"}\n{"prompt": "Two?"}\n').content.decode()
    assert "2 new prompts" in html
    assert Prompt.objects.filter(project=project).count() == 2


def test_a_bad_line_stops_the_import_and_is_named_with_its_reason(as_alice, project):
    response = upload(as_alice, project, '{"prompt": "One?"}\n{"prompt": 3}\n<b>not json</b>\n')
    html = response.content.decode()
    assert response.status_code == 400 and "Nothing was imported" in html
    assert "words.jsonl, line 2: prompt must be a text" in html and "words.jsonl, line 3" in html
    assert not Prompt.objects.exists()


def test_bad_lines_are_left_out_where_asked_for(as_alice, project):
    html = upload(as_alice, project, '{"prompt": "One?"}\nnot json\n', skip_bad="on").content.decode()
    assert "1 new prompt," in html and "1 bad line was left out" in html


def test_an_import_without_a_file_says_so_at_the_field(as_alice, project):
    response = as_alice.post(f"/p/{project.slug}/data/import/", {"kind": "prompts"})
    assert response.status_code == 400 and 'id="id_file_error"' in response.content.decode()


def test_judged_comparisons_are_imported_and_frozen_as_a_version(as_alice, project):
    lines = "".join(f'{{"prompt": "P{n}?", "chosen": "yes {n}", "rejected": "no {n}"}}\n' for n in range(8))
    assert "8 new comparisons" in upload(as_alice, project, lines, kind="comparisons").content.decode()
    as_alice.post(f"/p/{project.slug}/data/freeze/")
    version = DatasetVersion.objects.get()
    html = as_alice.get(f"/p/{project.slug}/data/").content.decode()
    assert version.train_count + version.eval_count == 8
    assert version.train_sha256[:12] in html
    (train,) = re.findall(r'href="([^"]*split=train)"', html)
    fetched = b"".join(as_alice.get(train).streaming_content)
    assert hashlib.sha256(fetched).hexdigest() == version.train_sha256


def test_what_has_not_changed_is_not_frozen_again(as_alice, project, bob, make_comparison, answer):
    def freeze():
        return as_alice.post(f"/p/{project.slug}/data/freeze/", follow=True).content.decode()

    def more():
        make_comparison()
        return answer(bob)

    more()
    assert "Dataset version 1 is frozen, with 1 preferences." in freeze()
    assert "Nothing has changed since version 1 was frozen." in freeze()
    assert DatasetVersion.objects.count() == 1
    withdraw(more())
    assert "Nothing has changed since version 1 was frozen." in freeze()
    more()
    assert "Dataset version 2 is frozen, with 2 preferences." in freeze()


def test_freezing_nothing_says_why(as_alice, project):
    html = as_alice.post(f"/p/{project.slug}/data/freeze/", follow=True).content.decode()
    assert "There are no preferences to freeze yet." in html


def test_a_file_name_that_is_html_shows_as_text(as_alice, project):
    file = io.BytesIO(b"not json")
    file.name = "<img src=x onerror=alert(1)>.jsonl"
    html = as_alice.post(
        f"/p/{project.slug}/data/import/", {"kind": "prompts", "file": file}
    ).content.decode()
    assert "<img" not in html


# Tokens


def test_a_token_is_shown_once_works_and_is_revoked(client, project, bob):
    client.force_login(bob)
    token = secret(client.post("/tokens/", {"lifetime": "30"}))
    assert token not in client.get("/tokens/").content.decode()
    stored = get_token_model().objects.get()
    assert stored.user == bob and token not in (stored.digest, stored.token_key) and stored.expiry is not None
    client.post(f"/tokens/{stored.digest}/revoke/")
    assert not get_token_model().objects.exists()


def test_another_persons_token_cannot_be_revoked(client, project, alice, bob):
    stored, _ = get_token_model().objects.create(user=alice)
    client.force_login(bob)
    assert client.post(f"/tokens/{stored.digest}/revoke/").status_code == 404
    assert get_token_model().objects.exists()


def test_a_lifetime_that_was_not_offered_makes_no_token(client, project, bob):
    client.force_login(bob)
    client.post("/tokens/", {"lifetime": "100000"})
    assert not get_token_model().objects.exists()


# Accounts


def test_nobody_can_sign_up_by_themselves(client, db):
    response = client.post(
        "/accounts/signup/",
        {"username": "eve", "password1": "a long passphrase", "password2": "a long passphrase"},
    )
    assert "Accounts are made by managers" in response.content.decode()
    assert not User.objects.exists()


def test_a_wrong_password_is_refused_with_a_sentence(client, bob):
    html = client.post("/accounts/login/", {"login": "bob", "password": "wrong"}).content.decode()
    assert 'role="alert"' in html and "not correct" in html


def test_who_is_there_is_not_added_again_in_another_role_or_by_another_spelling(as_alice, project, bob):
    path = f"/p/{project.slug}/people/"
    for name, role, said in (
        ("alice", "annotator", "alice is in the project already, as manager."),
        ("BOB", "reviewer", "bob is in the project already, as annotator."),
    ):
        page = as_alice.post(path, {"username": name, "role": role})
        assert said in page.content.decode()
    roles = dict(project.memberships.values_list("user__username", "role"))
    assert (roles["alice"], roles["bob"], len(roles)) == ("manager", "annotator", 3)


@pytest.mark.django_db(transaction=True)
def test_a_person_added_twice_at_once_is_one_account_whose_password_is_shown_once(project, alice, at_once):
    start, finish = at_once
    with transaction.atomic():
        Project.objects.select_for_update().get(pk=project.pk)
        start(
            one=lambda: invite(project, "dora", "annotator"),
            other=lambda: invite(project, "dora", "annotator"),
        )
    outcomes = sorted(finish().values(), key=lambda one: isinstance(one, Exception))
    assert outcomes[0][1] and "dora is in the project already" in str(outcomes[1])


def as_shown(page):
    """What a browser sends of a form that nobody touched."""
    shown = {bound.html_name: bound.value() for bound in page.context["form"]}
    sent = {name: value for name, value in shown.items() if value is not None and value is not False}
    return {
        name: value.replace("\n", "\r\n") if isinstance(value, str) else value for name, value in sent.items()
    }


def test_nobody_overwrites_unseen_what_another_has_saved(client, project, alice):
    save_guidelines(project, "Be kind.\nBe brief.", alice)
    client.force_login(alice)
    path = f"/p/{project.slug}/settings/"
    first, second = (as_shown(client.get(path)) for _ in range(2))
    assert client.post(path, first | {"guidelines": "Be kind.\r\nBe right."}).status_code == 302
    late = client.post(path, second | {"overlap": 3})
    said = late.content.decode()
    assert late.status_code == 200 and "Somebody has saved this page since you opened it" in said
    assert "differs in: People per comparison, What annotators should look for, in Markdown." in said
    project.refresh_from_db()
    assert (project.overlap, project.guidelines) == (1, "Be kind.\nBe right.")
    assert "Be brief." in said  # what was typed is kept
    assert client.post(path, as_shown(late) | {"guidelines": "Be quick."}).status_code == 302
    project.refresh_from_db()
    assert (project.overlap, project.guidelines, project.guidelines_number) == (3, "Be quick.", 3)


def test_who_changed_nothing_is_not_stopped_and_the_guidelines_page_notices_too(client, project, alice):
    save_guidelines(project, "Be kind.", alice)
    client.force_login(alice)
    path = f"/p/{project.slug}/guidelines/"
    shown = as_shown(client.get(f"{path}?edit"))
    save_guidelines(project, "Be kind.\nBe right.", alice)
    late = client.post(path, shown | {"guidelines": "Be brief."})
    assert "yours differs in: Guidelines" in late.content.decode() and "Be brief." in late.content.decode()
    assert client.post(path, shown | {"guidelines": "Be kind.\r\nBe right.\r\n"}).status_code == 302
    project.refresh_from_db()
    assert project.guidelines_number == 2
