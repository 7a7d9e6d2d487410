"""Loaded before Django reads its settings: gives the tests a data folder and servers of their own."""

import atexit
import os
import shutil
import tempfile

for name in ("DATABASE_URL", "REDIS_URL", "PRODUCTION", "TASTEMAKER_POLICY"):
    os.environ.pop(name, None)
os.environ["TASTEMAKER_DATA"] = tempfile.mkdtemp(prefix="tastemaker-tests-")
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # Playwright's loop runs beside the tests' database calls
atexit.register(shutil.rmtree, os.environ["TASTEMAKER_DATA"], ignore_errors=True)
