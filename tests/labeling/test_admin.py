import pytest
from django.contrib import admin
from django.urls import reverse

from labeling.datasets import freeze
from labeling.models import User

pytestmark = pytest.mark.django_db


@pytest.fixture
def root(client):
    client.force_login(User.objects.create_superuser("root", password="a long passphrase"))
    return client


def test_operators_can_look_at_everything_and_overwrite_nothing(root, project, bob, comparison, answer):
    judgment = answer(bob)
    freeze(project)
    ours = [model for model in admin.site._registry if model._meta.app_label == "labeling"]
    assert len(ours) == 9
    for model in ours:
        name = f"admin:labeling_{model._meta.model_name}"
        assert root.get(reverse(f"{name}_changelist")).status_code == 200
        row = model.objects.first()
        assert root.get(reverse(f"{name}_change", args=[row.pk])).status_code == 200
    change = reverse("admin:labeling_judgment_change", args=[judgment.pk])
    assert root.post(change, {"verdict": "tie"}).status_code == 403
    assert root.post(reverse("admin:labeling_judgment_delete", args=[judgment.pk])).status_code == 403


def test_what_pages_keep_whole_is_not_undone_here(root, project, alice, bob):
    place = project.memberships.get(user=alice)
    path = reverse("admin:labeling_project_change", args=[project.pk])
    form = root.get(path).context["adminform"].form
    sent = {name: value for name in form.fields if (value := form[name].value()) is not None}
    inline = {
        "memberships-TOTAL_FORMS": 4,
        "memberships-INITIAL_FORMS": 3,
        "memberships-0-id": place.pk,
        "memberships-0-user": bob.pk,
        "memberships-0-role": "annotator",
        "memberships-3-user": root.get(path).wsgi_request.user.pk,
        "memberships-3-role": "manager",
    }
    response = root.post(path, sent | inline | {"guidelines": "Mine.", "slug": "mine", "overlap": 4})
    assert response.status_code == 302, response.context["errors"]
    project.refresh_from_db()
    assert (project.guidelines, project.slug, project.overlap) == ("", "support", 4)
    roles = project.memberships.values_list("user__username", "role")
    assert {("alice", "manager"), ("root", "manager"), ("bob", "annotator")} <= set(roles)
    assert root.get(reverse("admin:labeling_project_add")).status_code == 403


def test_accounts_that_were_used_are_kept(root, project, bob, charlie):
    for person, status in ((bob, 403), (charlie, 302)):
        path = reverse("admin:labeling_user_delete", args=[person.pk])
        assert root.post(path, {"post": "yes"}).status_code == status
    assert set(User.objects.values_list("username", flat=True)) == {"root", "alice", "bob", "carol"}
    assert "delete_selected" not in root.get(reverse("admin:labeling_user_changelist")).content.decode()


def test_annotators_do_not_get_in(client, bob):
    client.force_login(bob)
    assert client.get(reverse("admin:labeling_judgment_changelist")).status_code == 302
