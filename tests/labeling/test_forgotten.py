"""A forgotten password, with a real mail server, and with one that is away."""

import re
from email import message_from_bytes
from email.policy import default

import pytest
from aiosmtpd.controller import Controller
from django.urls import reverse

from config.supervisor import free_port

RESET = "/accounts/password/reset/"
pytestmark = pytest.mark.django_db


def told(client, name):
    """What the page says to who asks for a link."""
    page = client.post(RESET, {"email": f"{name}@example.org"}, follow=True).content.decode()
    return re.search(r"<main.*</main>", page, re.DOTALL).group().replace(name, "")


class Letters:
    def __init__(self):
        self.received = []

    async def handle_DATA(self, server, session, envelope):
        self.received.append(message_from_bytes(envelope.content, policy=default))
        return "250 OK"


@pytest.fixture
def mail(settings):
    """A server for mail, which the settings name."""
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    settings.EMAIL_TIMEOUT = 60
    letters = Letters()
    server = Controller(letters, hostname=settings.EMAIL_HOST, port=settings.EMAIL_PORT, ready_timeout=60)
    server.start()
    yield letters.received
    server.stop()


def test_a_link_that_was_mailed_sets_a_new_password(client, mail, bob):
    bob.email = "bob@example.org"
    bob.save(update_fields=["email"])
    assert RESET in client.get(reverse("account_login")).content.decode()
    assert client.post(RESET, {"email": bob.email}).status_code == 302
    (letter,) = mail
    assert letter["To"] == bob.email
    link = re.search(r"http://testserver(/\S+)", letter.get_content()).group(1)
    page = client.get(link, follow=True)
    new = "another long passphrase"
    client.post(page.redirect_chain[-1][0], {"password1": new, "password2": new})
    bob.refresh_from_db()
    assert bob.check_password(new)


def test_an_address_that_nobody_has_is_answered_alike(client, mail, bob):
    bob.email = "bob@example.org"
    bob.save(update_fields=["email"])
    known, unknown = (told(client, name) for name in ("bob", "nobody"))
    assert known == unknown
    assert [letter["To"] for letter in mail] == ["bob@example.org", "nobody@example.org"]


@pytest.mark.parametrize("name", ["bob", "nobody"])
def test_a_mail_server_that_is_away_is_told_in_a_sentence(client, settings, bob, name):
    bob.email = "bob@example.org"
    bob.save(update_fields=["email"])
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    page = client.post(RESET, {"email": f"{name}@example.org"})
    assert page.status_code == 200
    assert "The mail could not be sent." in page.content.decode()


def test_without_mail_the_door_leads_to_a_manager_alone(client):
    page = client.get(reverse("account_login")).content.decode()
    assert RESET not in page
    assert "A manager of your project makes a new one" in page


def test_without_mail_no_letter_is_promised(client, bob, mailoutbox):
    client.force_login(bob)
    assert RESET in client.get(reverse("account_change_password")).content.decode()
    for page in (client.get(RESET), client.post(RESET, {"email": bob.email})):
        assert page.status_code == 200
        assert "A manager of your project makes a new one" in page.content.decode()
        assert "<form" not in page.content.decode().split("<main")[1]
    assert mailoutbox == []
