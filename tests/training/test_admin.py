"""What operators may do to the rows of training."""

import pytest
from django.urls import reverse

from labeling.models import User
from tests.training.rounds import ask, loop_of, say, trained
from training.models import LoopSettings


@pytest.mark.parametrize("rounds", [0, 1])
def test_settings_of_a_loop_that_has_had_a_round_are_not_deleted(client, project, bob, rounds):
    client.force_login(User.objects.create_superuser("root", password="a long passphrase"))
    settings = loop_of(project)
    ask(project, ["train", "eval"])
    say(bob, project, "kind")
    for _ in range(rounds):
        trained(project)
    delete = reverse("admin:training_loopsettings_delete", args=[settings.pk])
    assert client.post(delete, {"post": "yes"}).status_code == (403 if rounds else 302)
    several = {"action": "delete_selected", "_selected_action": [settings.pk], "post": "yes"}
    client.post(reverse("admin:training_loopsettings_changelist"), several)
    assert LoopSettings.objects.count() == rounds
