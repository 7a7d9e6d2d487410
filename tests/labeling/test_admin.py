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


def test_annotators_do_not_get_in(client, bob):
    client.force_login(bob)
    assert client.get(reverse("admin:labeling_judgment_changelist")).status_code == 302
