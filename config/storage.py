"""Files by the hash of their content: datasets today, checkpoints and object storage behind the same names.

A name is `prefix/sha256.suffix`, so equal content is stored once and a name can be trusted for ever.
"""

import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO

from django.conf import settings


def put_file(path: Path, prefix: str) -> str:
    """Store a copy of the file at path under its SHA-256. Returns the name; equal content gives the same one."""
    digest = sha256_of(path)
    name = f"{prefix}/{digest}{path.suffix}"
    target = settings.DATA / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{digest}.{secrets.token_hex(4)}")
        shutil.copyfile(path, aside)
        _flush(aside)
        os.replace(aside, target)
    return name


def open_file(name: str) -> BinaryIO:
    """Raises FileNotFoundError where nothing has that name."""
    return local_path(name).open("rb")


def local_path(name: str) -> Path:
    """Where a program that needs a real file finds it. Raises ValueError for a name outside the data folder."""
    path = (settings.DATA / name).resolve()
    if not path.is_relative_to(settings.DATA):
        raise ValueError(f"{name} lies outside the data folder")
    return path


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
