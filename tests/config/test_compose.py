"""The compose file, as far as it can be checked without an engine."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from django.conf import settings

ROOT = Path(__file__).resolve().parents[2]
SECRETS = {
    "SECRET_KEY": "s" * 50,
    "POSTGRES_PASSWORD": "p",
    "REDIS_PASSWORD": "r",
    "ALLOWED_HOSTS": "example.org",
}


@pytest.fixture(scope="module")
def text():
    return (ROOT / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def services(text):
    return yaml.safe_load(text)["services"]


def test_it_runs_the_processes_of_up_and_their_servers(services):
    assert set(services) == {"postgres", "redis", "migrate", "web", "worker-default", "worker-gpu", "beat"}


def test_every_lasting_service_is_restarted_and_has_a_health_check(services):
    for name, service in services.items():
        if name != "migrate":
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"], name


def test_the_gpu_queue_has_one_process(services):
    command = services["worker-gpu"]["command"]
    assert command[command.index("--concurrency") + 1] == "1"


def test_no_secret_has_a_default(text):
    for name in ("SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD"):
        uses = re.findall(r"\$\{" + name + r"([^}]*)\}", text)
        assert uses
        assert all(use.startswith(":?") for use in uses)


def test_secrets_beside_it_reach_neither_the_image_nor_a_commit():
    assert ".env" in (ROOT / ".dockerignore").read_text().splitlines()
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_data_lies_on_volumes_that_are_declared(text, services):
    declared = set(yaml.safe_load(text)["volumes"])
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert used == declared == {"postgres", "data"}


def test_what_needs_the_database_waits_for_migrations(services):
    for name in ("web", "worker-default", "worker-gpu", "beat"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def copied_into_the_image():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return {ROOT / source for line in lines if line.startswith("COPY") for source in line.split()[1:-1]}


def test_the_image_copies_only_what_is_there():
    for source in copied_into_the_image():
        assert source.exists(), source


def test_the_image_has_every_folder_that_the_settings_name():
    named = [*settings.LOCALE_PATHS, *settings.TEMPLATES[0]["DIRS"], *settings.STATICFILES_DIRS]
    assert copied_into_the_image() >= set(named)


@pytest.mark.skipif(
    not shutil.which("docker")
    or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0,
    reason="the docker client here has no compose",
)
def test_docker_compose_accepts_it():
    outcome = subprocess.run(
        ["docker", "compose", "config", "--quiet"],
        cwd=ROOT,
        env=os.environ | SECRETS,
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stderr
