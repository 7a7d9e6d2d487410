"""A form that is sent is sent once, however often it is clicked."""

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from labeling.models import DatasetVersion
from tests.training.rounds import ask, say

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def freeze(sign_in, alice, bob, project):
    """The button that freezes a version, on a page with something to freeze."""
    ask(project, ["train"])
    say(bob, project, "kind")
    page = sign_in(alice, reverse("labeling:data", args=[project.slug]))
    return page.get_by_role("button", name="Freeze what is there now")


def test_a_double_click_freezes_one_version(freeze):
    freeze.dblclick()
    expect(freeze.page.get_by_text("Dataset version 1 is frozen")).to_be_visible()
    assert DatasetVersion.objects.count() == 1


def test_what_a_cut_network_swallowed_can_be_sent_again(freeze):
    page = freeze.page
    page.route("**/freeze/", lambda route: route.abort())
    freeze.click()
    page.wait_for_url("chrome-error://**")
    page.unroute("**/freeze/")
    page.go_back()
    freeze.click()
    expect(page.get_by_text("Dataset version 1 is frozen")).to_be_visible()
    assert DatasetVersion.objects.count() == 1
