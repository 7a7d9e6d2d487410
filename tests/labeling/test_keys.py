"""A person's own keys of the desk: kept with the account, refused with a sentence, and nobody else's."""

import json

import pytest
from django.core.exceptions import ValidationError
from django.urls import reverse

from labeling.keys import (
    ACTS,
    EVERY,
    USUAL,
    as_written,
    is_key,
    keys_with,
    own_keys,
    problems,
    validate_own_keys,
)
from labeling.models import User

PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(1)//",
    "{{ 1 }}",
]


@pytest.fixture
def save(client, bob):
    """Send Bob's keys as his page does; returns the answer."""

    def send(_as=bob, **fields):
        client.force_login(_as)
        return client.post(reverse("labeling:keys"), as_written(keys_with(_as.own_keys)) | fields)

    return send


def kept(person):
    return User.objects.get(pk=person.pk).own_keys


def test_the_usual_keys_are_no_problem_and_none_of_them_is_kept():
    assert problems(USUAL) == {}
    assert own_keys(as_written(USUAL)) == {}


def test_the_same_key_may_serve_on_two_desks_that_are_never_one():
    assert problems({"a": "5", "rank1": "c", "why": "1"}).keys() == {"why", "a3"}
    assert problems({"a": "5"}) == {}


@pytest.mark.parametrize("name", [name for name, act in ACTS.items() if act.desks == EVERY])
def test_no_act_shares_a_key_with_one_that_is_everywhere(name):
    other = "skip" if name != "skip" else "flag"
    found = problems({name: USUAL[other]})
    assert found.keys() == {name, other} and str(ACTS[other].name) in found[name]


@pytest.mark.parametrize(
    "key",
    [
        "",
        " ",
        "\t",
        "\n",
        "ab",
        "\u200b",
        "\u202e",
        "\u0301",
        "\x07",
        "\ud800",
        "é\u0301",
        1,
        None,
        ["x"],
        *PAYLOADS,
    ],
)
def test_what_is_no_key_is_refused(key):
    assert problems({"skip": key}).keys() == {"skip"}


@pytest.mark.parametrize("key", ["x", "X", "é", "я", "ß", "ك", "あ", ";", "<", "&", '"', "'", "~", "٣"])
def test_any_letter_digit_or_sign_is_a_key(key):
    assert problems(own_keys({"skip": key})) == {}


@pytest.mark.parametrize("own", [[], "x", None, 3, {"fly": "x"}, {"skip": {"$": 1}}, {"__proto__": "x"}])
def test_the_account_takes_nothing_else(own, bob):
    with pytest.raises(ValidationError):
        validate_own_keys(own)
    bob.own_keys = own
    with pytest.raises(ValidationError):
        bob.full_clean()


def test_what_is_typed_is_kept_in_lower_case_and_the_usual_key_is_not_kept(save, bob):
    assert save(skip="X", why="C", undo="Я").status_code == 302
    assert kept(bob) == {"skip": "x", "undo": "я"}
    assert save(skip="S").status_code == 302
    assert kept(bob) == {}  # this form had the usual keys in all its fields


def test_what_the_page_shows_of_a_key_is_kept_as_that_key():
    letters = {char.lower() for char in map(chr, range(0x20000)) if is_key(char)}
    assert {"ı", "µ", "ς", "ß", "x"} <= letters
    changed = {key for key in letters if own_keys(as_written({"skip": key})) != own_keys({"skip": key})}
    assert changed == set()
    assert as_written({"skip": "x", "flag": "я", "why": "ı"}) == {"skip": "X", "flag": "Я", "why": "ı"}


@pytest.mark.parametrize("key", ["ı", "µ", "ς"])
def test_a_key_outlives_a_save_of_another(save, bob, key):
    save(undo=key)
    bob.refresh_from_db()
    assert save(skip="x").status_code == 302
    assert kept(bob) == {"undo": key, "skip": "x"}


def test_an_empty_field_means_the_usual_key(save, bob):
    save(skip="x")
    bob.refresh_from_db()
    save(skip="")
    assert kept(bob) == {}


def test_two_acts_may_change_their_keys_with_each_other(save, bob):
    assert save(skip="f", flag="s").status_code == 302
    assert kept(bob) == {"skip": "f", "flag": "s"}


def test_a_bad_key_is_told_at_its_field_and_what_was_typed_stays(save, bob):
    answer = save(skip="xy", flag="c", undo="q")
    assert answer.status_code == 200 and kept(bob) == {}
    form = answer.context["form"]
    assert form["skip"].errors == ["A key is one letter, digit or sign, such as x or 7."]
    assert 'value="xy"' in answer.content.decode() and 'value="q"' in answer.content.decode()
    answer = save(flag="c")
    assert answer.context["form"]["flag"].errors == ["The same key is set for: Say why."]
    assert answer.context["form"]["why"].errors == ["The same key is set for: Report."]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_is_refused_and_never_reaches_the_page_as_markup(save, bob, payload):
    answer = save(skip=payload)
    assert kept(bob) == {} and answer.context["form"]["skip"].errors
    assert payload not in answer.content.decode().replace("&#x27;", "'") or payload == "{{ 1 }}"
    answer = save(**{payload: "x"})
    assert kept(bob) == {} and answer.context["form"].non_field_errors()
    assert payload not in answer.content.decode() or payload == "{{ 1 }}"


def test_nobody_writes_another_persons_keys(save, bob, carol):
    for field in ("user", "id", "pk", "username", "own_keys"):
        answer = save(**{field: str(carol.pk), "skip": "x"})
        assert answer.status_code == 200
        assert answer.context["form"].non_field_errors() == ["The desk has no act of this name."]
    assert kept(bob) == kept(carol) == {}


def test_the_usual_keys_come_back(save, client, bob):
    save(skip="x")
    assert kept(bob) == {"skip": "x"}
    client.post(reverse("labeling:keys"), {"usual": "1", "skip": "y"})
    assert kept(bob) == {}


def test_signs_of_markup_as_keys_are_text_on_the_desk(save, client, bob, project, make_comparison):
    make_comparison(candidates=3)
    assert save(skip="<", why="&", rank1='"', undo="'").status_code == 302
    html = client.get(reverse("labeling:label", args=[project.slug])).content.decode()
    assert "<kbd>&lt;</kbd>" in html and "<kbd>&amp;</kbd>" in html and "<kbd>&quot;</kbd>" in html
    kept_as_json = html.split('id="own-keys" type="application/json">')[1].split("</script>")[0]
    assert "<" not in kept_as_json and json.loads(kept_as_json)["skip"] == "<"


def test_the_way_back_leads_to_a_desk_of_ones_own(client, bob, charlie, project):
    client.force_login(bob)
    address = reverse("labeling:keys") + f"?project={project.slug}"
    assert reverse("labeling:label", args=[project.slug]) in client.get(address).content.decode()
    client.force_login(charlie)
    assert client.get(address).status_code == 404
    assert client.get(reverse("labeling:keys") + "?project=nowhere").status_code == 404
    client.logout()
    assert client.get(address).status_code == 302


def test_keys_that_an_older_version_kept_do_no_harm(client, bob, project, make_comparison):
    make_comparison()
    User.objects.filter(pk=bob.pk).update(own_keys={"fly": "x", "skip": "y"})
    client.force_login(bob)
    page = client.get(reverse("labeling:label", args=[project.slug]))
    assert page.context["keys"]["skip"] == "Y" and "fly" not in page.context["keys"]
