"""The ways in: one door, its second factor, and whom the limit of guesses counts."""

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from django.core.cache import cache
from django.urls import reverse

from config.supervisor import free_port
from labeling.models import User

pytestmark = pytest.mark.django_db
PASSWORD = "a long passphrase"


@pytest.fixture(autouse=True)
def nobody_guessed_lately(embedded_servers):
    cache.clear()


@pytest.fixture
def root():
    return User.objects.create_superuser("root", password=PASSWORD)


def enter(client, name, password=PASSWORD, address="192.0.2.1", path="/accounts/login/"):
    said = {"login": name, "username": name, "password": password}
    return client.post(path, said, HTTP_X_FORWARDED_FOR=address)


def test_the_admin_has_no_door_of_its_own(client, root):
    for response in (client.get("/admin/login/?next=/admin/"), enter(client, "root", path="/admin/login/")):
        assert response.status_code == 302
        assert response["Location"].startswith(reverse("account_login"))
    assert "_auth_user_id" not in client.session
    enter(client, "root")
    assert client.get("/admin/").status_code == 200


def test_a_second_factor_is_asked_for_on_the_way_to_the_admin(client, root):
    TOTP.activate(root, generate_totp_secret())
    response = enter(client, "root", path="/accounts/login/?next=/admin/")
    assert response["Location"].startswith(reverse("mfa_authenticate"))
    assert client.get("/admin/").status_code == 302


def test_who_asked_for_a_letter_may_still_have_a_second_factor(client, settings, alice):
    alice.email = "alice@example.org"
    alice.save(update_fields=["email"])
    client.force_login(alice)
    client.get(reverse("account_email"))
    enter(client, "alice")
    settings.ACCOUNT_REAUTHENTICATION_REQUIRED = False
    page = client.get(reverse("mfa_activate_totp"), follow=True).content.decode()
    assert "until you have verified" not in page
    assert not Authenticator.objects.filter(user=alice).exists()


def test_guesses_count_for_who_makes_them_and_not_for_the_proxy(client, settings, alice):
    settings.ALLAUTH_TRUSTED_PROXY_COUNT = 1
    for number in range(40):
        refused = enter(client, f"nobody-{number}", address="203.0.113.9")
    assert refused.status_code == 429
    assert enter(client, "alice", address="192.0.2.7").status_code == 302


def test_who_tries_too_often_is_told_so_on_a_page_of_ours(client, alice):
    for number in range(40):
        refused = enter(client, f"nobody-{number}")
    assert refused.status_code == 429
    assert "Too much was tried from here" in refused.content.decode()


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_an_address_is_kept_though_no_letter_can_be_sent(client, settings, alice, host):
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = host, free_port()
    enter(client, "alice")
    said = {"email": "new@example.org", "action_add": ""}
    page = client.post(reverse("account_email"), said, follow=True).content.decode()
    assert "new@example.org" in page and "Confirmation email sent" not in page
    assert ("The mail could not be sent." in page) is bool(host)


def test_the_page_of_an_account_leads_to_all_that_it_is_entered_by(client, bob):
    client.force_login(bob)
    page = client.get(reverse("labeling:account")).content.decode()
    for door in ("account_email", "account_change_password", "mfa_index"):
        assert f'href="{reverse(door)}"' in page
        assert client.get(reverse(door)).status_code == 200
