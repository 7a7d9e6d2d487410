"""The pictures of the docs: of every page, so that none is forgotten."""

import pytest
from django.urls import reverse

from docs.take_screenshots import LOOKS, OUT, SHOTS
from tests.test_routes import routes

WORDS = {"method": "reward"}
# Of no project; the others of an account come up on the way through these.
OTHERS = {
    "labeling:home", "labeling:account", "labeling:keys", "labeling:tokens", "account_login",
    "account_change_password", "account_email", "mfa_index", "account_logout",
}  # fmt: skip
LATER = {"training:run", "training:loop-settings"}  # once there is a run, and a first policy


@pytest.mark.django_db
def test_every_page_of_a_project_has_its_picture(client, project, alice):
    client.force_login(alice)
    pages = OTHERS | LATER
    for name, more in routes():
        if more <= set(WORDS):
            words = {"slug": project.slug} | {part: WORDS[part] for part in more}
            answer = client.get(reverse(name, kwargs=words))
            if answer.status_code == 200 and b"<!doctype html" in answer.content[:100].lower():
                pages.add(name)
    assert {shot.route for shot in SHOTS} == pages


def test_no_two_pictures_have_one_name():
    assert len({shot.name for shot in SHOTS}) == len(SHOTS)


def test_each_of_them_was_taken():
    assert {path.name for path in OUT.iterdir()} == {
        f"{shot.name}{look}.png" for shot in SHOTS for look in LOOKS
    }
