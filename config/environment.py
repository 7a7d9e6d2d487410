"""Reads settings from the environment; a bad value stops the start with a sentence."""

import ipaddress
import os
import re
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from django.core.exceptions import ImproperlyConfigured


def text(name: str, default: str = "") -> str:
    """The variable, or the content of the file that NAME_FILE points to (compose secrets), or default."""
    if path := os.environ.get(f"{name}_FILE"):
        try:
            return Path(path).read_text().strip()
        except OSError as error:
            raise ImproperlyConfigured(
                f"{name}_FILE points to {path}, which cannot be read: {error.strerror}"
            ) from error
    return os.environ.get(name, default)


def flag(name: str, default: bool = False) -> bool:
    value = text(name).lower()
    if value in ("", "1", "true", "yes", "on", "0", "false", "no", "off"):
        return value in ("1", "true", "yes", "on") if value else default
    raise ImproperlyConfigured(f"{name} is {value!r}; it takes 1 or 0")


def number(name: str, default: int, least: int = 0, most: int = 2**31) -> int:
    value = text(name) or str(default)
    if not value.isdecimal() or not least <= int(value) <= most:
        raise ImproperlyConfigured(f"{name} is {value!r}; it takes a whole number from {least} to {most}")
    return int(value)


def words(name: str, default: str = "") -> list[str]:
    """A comma-separated list."""
    return [word.strip() for word in (text(name) or default).split(",") if word.strip()]


def choice(name: str, default: str, choices: list[str]) -> str:
    value = text(name).upper() or default
    if value not in choices:
        raise ImproperlyConfigured(f"{name} is {value!r}; it takes one of {', '.join(choices)}")
    return value


def host(name: str, default: str) -> str:
    """An address or a name to listen on, without scheme and port."""
    value = text(name) or default
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", value):
            raise ImproperlyConfigured(
                f"{name} is {value!r}; it takes an address of this machine, such as 0.0.0.0, or its name"
            ) from None
    return value


# Neither of the next two repeats a bad value: it may hold a password.


def postgres(name: str, default: str) -> dict[str, Any]:
    """The database that a URL names, as Django takes it."""
    sentence = f"{name} names another database than PostgreSQL, the only one Tastemaker runs on; it takes postgresql://USER:PASSWORD@HOST/NAME"
    try:
        database = dj_database_url.parse(text(name) or default, conn_health_checks=True, conn_max_age=60)
    except ValueError:
        raise ImproperlyConfigured(sentence) from None
    if database["ENGINE"] != "django.db.backends.postgresql":
        raise ImproperlyConfigured(sentence)
    return database


def redis(name: str, default: str) -> str:
    """The address of a Redis or Valkey."""
    value = text(name) or default
    if not _names_redis(value):
        raise ImproperlyConfigured(
            f"{name} is not the address of a Redis; it takes redis://:PASSWORD@HOST:6379/0 or unix:///PATH"
        )
    return value


def _names_redis(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    return bool(
        parts.path if parts.scheme == "unix" else parts.scheme in ("redis", "rediss") and parts.hostname
    )


def servers(name: str) -> list[str]:
    """A comma-separated list of base URLs, as the engine spells them. A bad one is not repeated: it may hold a password."""
    from training.engine.config import server_url

    found = []
    for number, word in enumerate(words(name), 1):
        try:
            found.append(server_url(word))
        except ValueError as error:
            raise ImproperlyConfigured(f"{name}: address {number} {error}") from None
    return found


def secret_key(data: Path, required: bool) -> str:
    """SECRET_KEY from the environment, or one made on first start and kept in the data folder.

    Raises ImproperlyConfigured where required (production) and absent: no secret has a default.
    """
    if value := text("SECRET_KEY"):
        if len(value) < 32:
            raise ImproperlyConfigured("SECRET_KEY is shorter than 32 characters")
        return value
    if required:
        raise ImproperlyConfigured(
            "PRODUCTION is set but SECRET_KEY is not. Make one: python -c 'import secrets; print(secrets.token_urlsafe(50))'"
        )
    return _kept_secret(data / "secret_key")


def _kept_secret(path: Path) -> str:
    """Several processes may start at once: the one whose exclusive link succeeds decides."""
    if not path.exists():
        aside = path.with_name(f"secret_key.{secrets.token_hex(4)}")
        aside.touch(mode=0o600)
        aside.write_text(secrets.token_urlsafe(50))
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    return path.read_text().strip()
