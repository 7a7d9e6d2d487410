"""The settings, with a data folder and servers that belong to the tests alone."""

import atexit
import os
import shutil
import tempfile

for name in (
    "DATABASE_URL", "REDIS_URL", "PRODUCTION", "TASTEMAKER_POLICY", "TASTEMAKER_GENERATION_SERVERS", "TASTEMAKER_SERVER_KEY",
    "TASTEMAKER_PROCESSES",
):  # fmt: skip
    os.environ.pop(name, None)
os.environ["TASTEMAKER_DATA"] = tempfile.mkdtemp(prefix="tastemaker-tests-")
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # Playwright's loop runs beside the tests' database calls
atexit.register(shutil.rmtree, os.environ["TASTEMAKER_DATA"], ignore_errors=True)

from config.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # many logins, no secrets
