"""The four directions of the house, read from the imports."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = {"torch", "transformers", "accelerate", "peft", "safetensors", "tokenizers"}


def imports(folder):
    """(file, dotted name) of every import in the folder, also those inside functions."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                package = path.relative_to(ROOT).parent.parts
                prefix = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
                module = ".".join(part for part in (prefix, node.module or "") if part)
                yield path, module
                yield from ((path, f"{module}.{alias.name}") for alias in node.names)


def inside(path, folder):
    return path.is_relative_to(ROOT / folder)


def test_labeling_imports_neither_training_nor_torch():
    wrong = [(str(p), name) for p, name in imports("labeling") if name.split(".")[0] in TORCH | {"training"}]
    assert not wrong


def test_training_takes_of_the_engine_only_config_records_and_intervals():
    allowed = ("training.engine.config", "training.engine.records", "training.engine.intervals")
    wrong = [
        (str(path), name)
        for path, name in imports("training")
        if not inside(path, "training/engine")
        and name.startswith("training.engine")
        and name != "training.engine"
        and not name.startswith(allowed)
    ]
    assert not wrong


def test_the_engine_imports_nothing_of_ours_but_itself():
    ours = {"config", "labeling", "django", "celery"}
    wrong = [
        (str(path), name)
        for path, name in imports("training/engine")
        if name.split(".")[0] in ours or (name.startswith("training") and not name.startswith("training.engine") and name != "training")
    ]  # fmt: skip
    assert not wrong


def test_torch_is_loaded_only_inside_the_engine():
    makers = (
        ROOT / "training" / "demo" / "build.py"
    )  # a script that makes the demo policy's tokenizer and weights
    wrong = [
        (str(path), name)
        for folder in ("config", "labeling", "training")
        for path, name in imports(folder)
        if name.split(".")[0] in TORCH and not inside(path, "training/engine") and path != makers
    ]
    assert not wrong


def test_the_gold_judge_is_kept_out_of_everything_that_trains():
    wrong = [
        str(path)
        for folder in ("config", "labeling", "training")
        for path, name in imports(folder)
        if name.startswith("training.demo.gold") and path.name not in {"rehearsal.py", "gold.py"}
    ]
    assert not wrong


def test_a_web_process_carries_no_torch():
    script = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'config.settings'; import django; django.setup()\n"
        "import config.urls\n"
        f"print(sorted({TORCH!r} & set(sys.modules)))"
    )
    outcome = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert outcome.stdout.strip() == "[]", outcome.stderr
