"""Pages speak the language that a person chose, or else the one that their browser asks for."""

import html
import re

import pytest
from django.conf import settings
from django.urls import reverse
from django.utils import translation
from django.utils.translation import get_language_info

from labeling.qualification import add_questions, begin, build_question
from labeling.qualification import answer as answer_question
from labeling.words import KINDS, desk_words

pytestmark = pytest.mark.django_db
CODES = [code for code, _ in settings.LANGUAGES]
SCRIPTS = settings.BASE_DIR / "static" / "js"


def frame(response):
    """Language and direction of a page."""
    return re.search(r'<html lang="([^"]+)" dir="([^"]+)">', response.content.decode()).groups()


def choose(client, code):
    return client.post(reverse("labeling:language"), {"language": code}, follow=True)


@pytest.mark.parametrize("code", CODES)
def test_a_person_chooses_a_language_for_every_page_and_browser(client, bob, project, code):
    client.force_login(bob)
    page = choose(client, code)
    bob.refresh_from_db()
    assert bob.language == code
    direction = "rtl" if get_language_info(code)["bidi"] else "ltr"
    assert frame(page) == (code, direction)
    client.cookies.clear()  # another browser, which asks for another language
    client.force_login(bob)
    other = client.get(reverse("labeling:label", args=[project.slug]), headers={"accept-language": "fr"})
    assert frame(other) == (code, direction)


def test_without_a_choice_the_browser_decides_and_english_is_for_the_rest(client, bob):
    client.force_login(bob)
    for asked, spoken in [("fr-CA", "fr"), ("zh-CN,en;q=0.5", "zh-hans"), ("ar-EG", "ar"), ("tlh", "en")]:
        assert frame(client.get("/", headers={"accept-language": asked}))[0] == spoken


def test_the_choice_can_be_given_back_to_the_browser(client, bob):
    client.force_login(bob)
    choose(client, "es")
    client.post(reverse("labeling:language"), {"language": ""}, headers={"accept-language": "fr"})
    bob.refresh_from_db()
    assert bob.language == ""
    assert frame(client.get("/", headers={"accept-language": "fr"}))[0] == "fr"


def test_the_door_speaks_what_was_chosen_in_this_browser(client, bob):
    client.force_login(bob)
    choose(client, "ar")
    client.post(reverse("account_logout"))
    assert frame(client.get(reverse("account_login"))) == ("ar", "rtl")


def test_a_language_that_there_is_not_is_refused(client, bob):
    client.force_login(bob)
    page = choose(client, "tlh")
    bob.refresh_from_db()
    assert bob.language == ""
    assert "Choose one of the languages listed." in page.content.decode()


def test_a_language_that_is_no_more_leaves_the_browser_to_decide(client, bob):
    type(bob).objects.filter(pk=bob.pk).update(language="tlh")
    client.force_login(bob)
    assert frame(client.get("/", headers={"accept-language": "fr"}))[0] == "fr"


def test_the_account_page_offers_each_language_by_its_own_name(client, bob):
    client.force_login(bob)
    page = client.get(reverse("labeling:account")).content.decode()
    for code, name in settings.LANGUAGES:
        assert f'<bdi lang="{code}">{name}</bdi>' in page


def test_the_api_speaks_english_whatever_is_asked_for(client, bob):
    type(bob).objects.filter(pk=bob.pk).update(language="fr")
    client.force_login(bob)
    answer = client.post(
        "/api/v1/projects/", data="{", content_type="application/json", headers={"accept-language": "ar"}
    )
    assert answer.headers["Content-Language"] == "en"
    assert answer.json()["detail"].isascii()


# Pages of managers


def main_of(response):
    return re.search(r"<main .*?</main>", response.content.decode(), re.DOTALL)[0]


@pytest.mark.parametrize("page", ["settings", "data", "people", "reports"])
def test_pages_of_managers_are_english_in_a_frame_of_the_persons_language(client, alice, project, page):
    type(alice).objects.filter(pk=alice.pk).update(language="ar")
    client.force_login(alice)
    shown = client.get(reverse(f"labeling:{page}", args=[project.slug]))
    assert frame(shown) == ("ar", "rtl")
    assert re.match(r'<main [^>]*lang="en" dir="ltr"', main_of(shown))
    in_arabic = r"[\u0600-\u06ff]"
    without_names = re.sub(r"<select name=\"languages\".*?</select>", "", main_of(shown), flags=re.DOTALL)
    assert not re.search(in_arabic, without_names)


def test_what_a_manager_typed_wrong_is_said_in_english_there(client, alice, project):
    type(alice).objects.filter(pk=alice.pk).update(language="fr")
    client.force_login(alice)
    shown = client.post(reverse("labeling:settings", args=[project.slug]), {"name": "", "overlap": "0"})
    assert "This field is required." in main_of(shown)


# Languages of a project's texts


def read_settings(client, project):
    page = client.get(reverse("labeling:settings", args=[project.slug]))
    form = page.context["form"]
    return {
        name: value for name, value in form.initial.items() if value is not None and value is not False
    } | {name: "\n".join(form.initial[name]) for name in ("criteria", "reason_tags")}


@pytest.mark.parametrize(("chosen", "said"), [([], ""), (["sw"], "sw"), (["sw", "zh-hans"], "")])
def test_the_one_language_of_a_project_marks_its_texts(client, alice, bob, project, comparison, chosen, said):
    client.force_login(alice)
    saved = client.post(
        reverse("labeling:settings", args=[project.slug]),
        read_settings(client, project) | {"languages": chosen},
    )
    assert saved.status_code == 302
    project.refresh_from_db()
    assert project.languages == chosen
    client.force_login(bob)
    desk = client.get(reverse("labeling:label", args=[project.slug])).content.decode()
    marked = re.findall(r'<div class="prose(?: read)?" dir="auto" lang="([^"]*)">', desk)
    assert marked == [said] * 3  # the prompt and two answers
    home = client.get("/").content.decode()
    names = {"sw": "Kiswahili", "zh-hans": "简体中文"}
    assert [f'<bdi lang="{code}">{name}</bdi>' in home for code, name in names.items()] == [
        code in chosen for code in names
    ]


def test_a_language_that_nobody_knows_is_refused_at_its_field(client, alice, project):
    client.force_login(alice)
    shown = client.post(
        reverse("labeling:settings", args=[project.slug]),
        read_settings(client, project) | {"languages": ["tlh"]},
    )
    assert "tlh is not one of the available choices" in main_of(shown)
    project.refresh_from_db()
    assert project.languages == []


# What is left in English


def words_of(page):
    """What a page says to the eye and to the ear, without the markup, the addresses and the parts it has from people."""
    page = re.sub(r"<(style|bdi|code|kbd|select)\b.*?</\1>", " ", page, flags=re.DOTALL)
    page = re.sub(r'<[^>]* dir="auto"[^>]*>.*?</', "</", page, flags=re.DOTALL)
    page = re.sub(r"annotator-\w+", " ", page)  # a pseudonym
    page = re.sub(r'<script id="(?!words").*?</script>', " ", page, flags=re.DOTALL)
    if words := re.search(r'<script id="words"[^>]*>(.*?)</script>', page, re.DOTALL):
        page = page.replace(
            words[0], " ".join(re.findall(r': *"([^"]*)"', words[1].encode().decode("unicode_escape")))
        )
    spoken = re.findall(r'(?:aria-label|title|placeholder|alt)="([^"]*)"', page)
    text = html.unescape(re.sub(r"<[^>]*>", " ", page) + " ".join(spoken))
    return set(re.findall(r"[A-Za-z]{2,}", re.sub(r"%\(\w+\)s", " ", text)))


def left_in_english(page):
    """The words of a page in Arabic that are no names and no terms of art."""
    assert frame(page)[0] == "ar"
    names = {"Tastemaker", "Support", "answers", "bob", "example", "org", "Authorization", "Token"}
    terms = {"API", "JSON", "Markdown", "JavaScript", "Esc", "Ctrl", "NUL", "UUID", "AltGr", "Option"}
    return words_of(page.content.decode()) - names - terms


PAGES = ["label", "mine", "guidelines", "qualification", "home", "account", "keys", "tokens"]


@pytest.mark.parametrize("name", [*PAGES, "effect", "login", "nowhere"])
def test_nothing_english_is_left_on_a_page_of_annotators(client, bob, project, comparison, answer, name):
    answer(bob, "tie")
    type(project).objects.update(
        reason_tags=["x"],
        criteria=["y"],
        all_good=True,
        reason_required=True,
        comment_required=True,
        partial_rankings=True,
    )
    type(bob).objects.filter(pk=bob.pk).update(language="ar")
    if name == "login":
        page = client.get(reverse("account_login"), headers={"accept-language": "ar"})
    else:
        client.force_login(bob)
        space = "training" if name == "effect" else "labeling"
        of_project = [] if name in ("home", "account", "keys", "tokens") else [project.slug]
        page = client.get("/nowhere/" if name == "nowhere" else reverse(f"{space}:{name}", args=of_project))
    assert left_in_english(page) == set()


def test_nothing_english_is_left_in_the_qualification_round(client, bob, project):
    project.qualification = True
    project.save(update_fields=["qualification"])
    add_questions(
        project, [build_question(project, f"{number}?", ["1", "2"], ["a"], "3") for number in (1, 2)]
    )
    type(bob).objects.filter(pk=bob.pk).update(language="ar")
    client.force_login(bob)
    path = reverse("labeling:qualification", args=[project.slug])
    assert left_in_english(client.get(path)) == set()
    member = project.memberships.select_related("project").get(user=bob)
    for letter in (1, 0):  # an attempt that fails, and one that passes
        attempt = begin(member)
        for given in attempt.answers.select_related("question__project"):
            assert left_in_english(client.get(path)) == set()
            answer_question(given, "preferred", side=given.sides.index(letter), strength=2)
            assert left_in_english(client.get(path, {"given": given.pk})) == set()
        assert left_in_english(client.get(path)) == set()


# Words of scripts


def test_scripts_and_words_know_the_same_names():
    code = "\n".join(path.read_text() for path in SCRIPTS.glob("*.js"))
    # words("saved"), and both of words(left ? "saving" : "saved")
    said = {
        name for call in re.findall(r"\bwords\(([^,;{]*)", code) for name in re.findall(r'"([a-z-]+)"', call)
    }
    assert said == set(desk_words())


@pytest.mark.parametrize("code", CODES)
def test_every_word_has_a_form_for_every_kind_of_number(code):
    with translation.override(code):
        words = desk_words()
    assert all(words.values())
    counted = [forms for forms in words.values() if isinstance(forms, dict)]
    assert counted
    for forms in counted:
        assert forms.keys() == KINDS.keys() and all(forms.values())
