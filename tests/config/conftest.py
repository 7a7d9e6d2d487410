import shutil
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def folder():
    """A data folder outside pytest's own, which each new session closes to PostgreSQL's system user."""
    path = Path(tempfile.mkdtemp(prefix="tastemaker-config-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
