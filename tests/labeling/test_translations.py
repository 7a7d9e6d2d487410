"""The catalogs under locale/: complete, consistent, and compiled from what they say."""

import ast
import gettext
import re
import shutil

import pytest
from django.conf import settings
from django.core.management import call_command
from django.utils.translation import to_locale

LOCALES = [to_locale(code) for code, _ in settings.LANGUAGES if code != "en"]
VALUE = re.compile(r"%\(\w+\)s")
# The span that a phone hides may be given up where a language has nothing to hide.
HIDDEN_ON_PHONES = re.compile(r'<span class="wide-only">(.*?)</span>')
WITH_SENTENCES = ("config", "labeling", "templates", "training")


def path_of(locale, end, root=settings.BASE_DIR / "locale"):
    return root / locale / "LC_MESSAGES" / f"django.{end}"


def read(path):
    """The entries of a .po file but its head: a dictionary each, and `fuzzy` where it is so marked."""
    entries = []
    for block in path.read_text().split("\n\n")[1:]:
        entry, field = {"fuzzy": ", fuzzy" in block}, ""
        for line in block.strip().split("\n"):
            if line.startswith("#~"):
                entry["obsolete"] = True
            if line.startswith("#"):
                continue
            name, quoted = re.fullmatch(r'(?:(msg\S+) )?(".*")', line).groups()
            field = name or field
            entry[field] = entry.get(field, "") + ast.literal_eval(quoted)
        entries.append(entry)
    return entries


def key(entry):
    """Its sentence, as the compiled catalog names it: after its context, where the same words mean two things."""
    return "\x04".join(entry[name] for name in ("msgctxt", "msgid") if name in entry)


def said(entry):
    """What it is translated by: one text, or one for each form."""
    return [text for name, text in sorted(entry.items()) if name.startswith("msgstr")]


def compiled(locale):
    with path_of(locale, "mo").open("rb") as file:
        return gettext.GNUTranslations(file)


def tags(text):
    return sorted(re.findall(r"<[^>]+>|&#?\w+;", HIDDEN_ON_PHONES.sub(r"\1", text)))


@pytest.mark.parametrize("locale", LOCALES)
def test_every_sentence_is_translated(locale):
    entries = read(path_of(locale, "po"))
    assert len(entries) > 200
    unfinished = [entry["msgid"] for entry in entries if entry["fuzzy"] or not all(said(entry))]
    assert unfinished == []
    assert [entry for entry in entries if "obsolete" in entry] == []


@pytest.mark.parametrize("locale", LOCALES)
def test_a_translation_holds_the_values_and_tags_of_its_sentence(locale):
    form_of = compiled(locale).plural
    counts = {}
    for count in range(1_000):
        counts.setdefault(form_of(count), []).append(count)
    wrong = []
    for entry in read(path_of(locale, "po")):
        values = set(VALUE.findall(entry.get("msgid_plural", entry["msgid"])))
        for form, text in enumerate(said(entry)):
            found = set(VALUE.findall(text))
            # A form that only one number takes may say that number in a word.
            in_a_word = "msgid_plural" in entry and len(counts.get(form, ())) == 1
            if not (found <= values if in_a_word else found == values) or tags(text) != tags(entry["msgid"]):
                wrong.append(text)
    assert wrong == []


@pytest.mark.parametrize("locale", LOCALES)
def test_what_is_compiled_says_what_is_written(locale):
    written = {}
    for entry in read(path_of(locale, "po")):
        if "msgid_plural" in entry:
            written |= {(key(entry), form): text for form, text in enumerate(said(entry))}
        else:
            (written[key(entry)],) = said(entry)
    catalog = {sentence: text for sentence, text in compiled(locale)._catalog.items() if sentence}
    assert catalog == written


def test_what_is_compared_and_what_a_person_said_of_it_are_two_words_in_chinese():
    chinese = compiled("zh_Hans")
    assert (chinese.pgettext("to the prompt", "Answers"), chinese.gettext("Answers")) == ("回答", "判断")


def test_arabic_has_six_forms_and_chinese_one():
    for locale, forms in (("ar", 6), ("zh_Hans", 1)):
        assert len({compiled(locale).plural(count) for count in range(1_000)}) == forms
    for entry in read(path_of("ar", "po")):
        assert len(said(entry)) == (6 if "msgid_plural" in entry else 1)


@pytest.mark.skipif(not shutil.which("xgettext"), reason="xgettext, of Debian's package gettext, is not here")
def test_catalogs_hold_the_sentences_of_the_code_and_no_others(tmp_path, settings, monkeypatch):
    # In a copy: the command writes beside the templates while it works, and into any folder locale/ that it finds.
    for part in WITH_SENTENCES:
        kept_out = shutil.ignore_patterns("__pycache__", "engine", "policy")
        shutil.copytree(settings.BASE_DIR / part, tmp_path / part, ignore=kept_out)
    (tmp_path / "locale").mkdir()
    settings.LOCALE_PATHS = [tmp_path / "locale"]
    monkeypatch.chdir(tmp_path)
    call_command("makemessages", locale=["fr"], verbosity=0)
    in_code = {key(entry) for entry in read(path_of("fr", "po", tmp_path / "locale"))}
    for locale in LOCALES:
        in_catalog = {key(entry) for entry in read(path_of(locale, "po"))}
        assert in_catalog == in_code, locale
