import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_settings(data, **variables):
    """What a fresh process says that reads its settings from these variables."""
    return run_python(
        "import config.settings as s; print(s.SECRET_KEY)", {"TASTEMAKER_DATA": str(data)} | variables
    )


def run_python(code, variables):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env={"PATH": os.environ["PATH"]} | variables, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"PORT": "eighty"}, "PORT is 'eighty'; it takes a whole number from 1 to 65535"),
        ({"DEBUG": "maybe"}, "DEBUG is 'maybe'; it takes 1 or 0"),
        ({"PRODUCTION": "1"}, "PRODUCTION is set but SECRET_KEY is not"),
        ({"PRODUCTION": "1", "SECRET_KEY": "s" * 50}, "PRODUCTION is set but ALLOWED_HOSTS is not"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY is shorter than 32 characters"),
        ({"DATABASE_URL": "sqlite:///x.db"}, "DATABASE_URL names another database than PostgreSQL"),
        ({"DATABASE_URL": "nonsense"}, "DATABASE_URL names another database than PostgreSQL"),
        ({"REDIS_URL": "nonsense"}, "REDIS_URL is not the address of a Redis"),
        ({"REDIS_URL": "redis://host:port/0"}, "REDIS_URL is not the address of a Redis"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL is 'LOUD'; it takes one of DEBUG, INFO"),
        ({"HOST": "http://here"}, "HOST is 'http://here'; it takes an address of this machine"),
        (
            {"EMAIL_USE_TLS": "1", "EMAIL_USE_SSL": "1"},
            "EMAIL_USE_TLS and EMAIL_USE_SSL are both set; a server speaks one of them",
        ),
        ({"EMAIL_HOST": "mail.example.org"}, "EMAIL_HOST is set, and DEFAULT_FROM_EMAIL is not"),
        ({"SECRET_KEY_FILE": "/nowhere"}, "SECRET_KEY_FILE points to /nowhere, which cannot be read"),
    ],
)
def test_a_bad_setting_stops_the_start_with_a_sentence(tmp_path, variables, sentence):
    outcome = load_settings(tmp_path, **variables)
    assert outcome.returncode != 0
    assert f"ImproperlyConfigured: {sentence}" in outcome.stderr


def test_an_empty_setting_means_the_default(tmp_path):
    names = ("HOST", "PORT", "LOG_LEVEL", "DATABASE_URL", "REDIS_URL", "ALLOWED_HOSTS")
    variables = {"TASTEMAKER_DATA": str(tmp_path)} | dict.fromkeys(names, "")
    outcome = run_python("import config.settings as s; print(s.HOST, s.PORT, s.ALLOWED_HOSTS[0])", variables)
    assert outcome.stdout.strip() == "127.0.0.1 8000 localhost", outcome.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "console 25"),
        ({"EMAIL_HOST": "mail.example.org", "EMAIL_USE_TLS": "1"}, "smtp 587"),
        ({"EMAIL_HOST": "mail.example.org", "EMAIL_USE_SSL": "1"}, "smtp 465"),
        ({"EMAIL_HOST": "mail.example.org", "EMAIL_PORT": "2525"}, "smtp 2525"),
    ],
)
def test_mail_is_handed_to_a_server_where_one_is_named(tmp_path, variables, said):
    read = "import config.settings as s; print(s.EMAIL_BACKEND.split('.')[-2], s.EMAIL_PORT)"
    common = {"TASTEMAKER_DATA": str(tmp_path), "DEFAULT_FROM_EMAIL": "us@example.org"}
    outcome = run_python(read, common | variables)
    assert outcome.stdout.strip() == said, outcome.stderr


@pytest.mark.parametrize(("variables", "said"), [({}, "0 0"), ({"BEHIND_PROXY": "1"}, "1 1")])
def test_who_is_counted_behind_a_proxy(tmp_path, variables, said):
    read = (
        "import config.settings as s; print(s.ALLAUTH_TRUSTED_PROXY_COUNT, s.REST_FRAMEWORK['NUM_PROXIES'])"
    )
    outcome = run_python(read, {"TASTEMAKER_DATA": str(tmp_path)} | variables)
    assert outcome.stdout.strip() == said, outcome.stderr


def test_the_level_of_the_log_holds_in_workers_too(tmp_path):
    """Celery's own set-up would put the level of its command on the root logger."""
    said = run_python(
        "import logging, django; django.setup()\n"
        "from config.celery import app; app.log.setup(loglevel='ERROR')\n"
        "print(logging.getLogger('training').getEffectiveLevel() == logging.DEBUG)",
        {"TASTEMAKER_DATA": str(tmp_path), "LOG_LEVEL": "DEBUG", "DJANGO_SETTINGS_MODULE": "config.settings"},
    )
    assert said.stdout.strip() == "True", said.stderr


def test_a_secret_is_made_once_and_kept_for_its_owner_alone(tmp_path):
    first, second = load_settings(tmp_path), load_settings(tmp_path)
    assert len(first.stdout.strip()) > 50
    assert first.stdout == second.stdout
    assert (tmp_path / "secret_key").stat().st_mode & 0o077 == 0


def test_a_secret_may_come_from_a_file(tmp_path):
    (tmp_path / "key").write_text("k" * 40 + "\n")
    assert load_settings(tmp_path, SECRET_KEY_FILE=str(tmp_path / "key")).stdout.strip() == "k" * 40


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path):
    command = [sys.executable, "-c", "import config.settings as s; print(s.SECRET_KEY)"]
    environment = {"PATH": os.environ["PATH"], "TASTEMAKER_DATA": str(tmp_path)}
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert len({process.communicate()[0] for process in processes}) == 1
