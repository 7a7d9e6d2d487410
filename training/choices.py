"""What a person may choose for a run: versions, datasets and prompts by name, never a path on the server."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.core.files.uploadedfile import UploadedFile

from config import storage
from labeling.exports import stream_demonstrations
from labeling.models import DatasetVersion, Edit, Project, User
from training import candidates, runs
from training.engine.config import FILE_FIELDS, METHODS, MODEL_FIELDS
from training.models import LoopSettings, ModelVersion, Run

MOST_PROMPTS = 20_000
# Set by what is chosen.
NOT_SETTINGS = {*MODEL_FIELDS, *FILE_FIELDS, "replay_share"}
CHOICES = {
    "sft": ("model", "better_answers", "demonstrations"),
    "reward": ("model", "dataset"),
    "ppo": ("model", "reference_model", "reward_model", "held_out_reward_model", "prompts"),
    "grpo": ("model", "reference_model", "reward_model", "held_out_reward_model", "prompts"),
    "rloo": ("model", "reference_model", "reward_model", "held_out_reward_model", "prompts"),
    "dpo": ("model", "reference_model", "dataset"),
    "generate": ("model", "prompts"),
    "score": ("model", "completions_of"),
    "evaluate": ("model", "baseline_model", "reward_model", "second_judge_model", "prompts"),
}
OPTIONAL = {
    ("sft", "better_answers"),  # one of the two, or both
    ("sft", "demonstrations"),
    ("evaluate", "reward_model"),
    ("evaluate", "second_judge_model"),
    ("ppo", "reference_model"),
    ("ppo", "held_out_reward_model"),
    ("grpo", "reference_model"),
    ("grpo", "held_out_reward_model"),
    ("rloo", "reference_model"),
    ("rloo", "held_out_reward_model"),
    ("dpo", "reference_model"),
}
REWARD_CHOICES = ("reward_model", "held_out_reward_model", "second_judge_model")
# Chosen versions whose path is a setting of the same name; the others are links of the run's row.
BY_NAME = ("reference_model", "baseline_model", "held_out_reward_model", "second_judge_model")
SPLITS = {"train": "prompts to train on", "eval": "held-out prompts", "all": "all prompts"}


def settings_of(method: str) -> list[str]:
    """The engine's settings of a method that a person may give a value."""
    return [name for name in METHODS[method].model_fields if name not in NOT_SETTINGS]


def versions(project: Project, method: str, choice: str) -> Any:
    """The model versions that fit a choice, newest first."""
    is_reward = choice in REWARD_CHOICES or (method == "score" and choice == "model")
    kind = ModelVersion.Kind.REWARD if is_reward else ModelVersion.Kind.POLICY
    return ModelVersion.objects.filter(project=project, kind=kind).order_by("-number")


def sampled_runs(project: Project) -> Any:
    """Runs whose completions can be scored."""
    return Run.objects.filter(project=project, status=Run.Status.DONE, method__in=["generate", "evaluate"])


def start_run(
    project: Project, method: str, settings: Mapping[str, Any], chosen: Mapping[str, Any], user: User | None
) -> Run:
    """Start a run from what a person chose: rows for versions, a split for prompts. Raises RunRefused."""
    if method not in METHODS:
        raise runs.RunRefused(f"There is no method {method!r}; there are {', '.join(METHODS)}.")
    for name in settings:
        if name in NOT_SETTINGS:
            raise runs.RunRefused(f"{name}: is not set here; choose versions, datasets and prompts by name")
    check_rewards(settings.get("rewards"))
    for name in CHOICES[method]:
        if not chosen.get(name) and (method, name) not in OPTIONAL:
            raise runs.RunRefused(f"{name}: must be given")
    if method == "sft" and not chosen.get("demonstrations") and not chosen.get("better_answers"):
        raise runs.RunRefused("demonstrations: give a file, or take the better answers that people wrote")
    return runs.start(
        project,
        method,
        dict(settings) | _paths(project, chosen),
        user,
        input_model=chosen["model"],
        reward_model=chosen.get("reward_model"),
        dataset_version=chosen.get("dataset"),
    )


def check_rewards(terms: Any) -> None:
    """Raise RunRefused for a reward that is a Python function: nobody chooses over the web what code the server runs.

    A term that names no kind is one too; what else is wrong with terms, the engine says.
    """
    for number, term in enumerate(terms if isinstance(terms, list | tuple) else []):
        if isinstance(term, dict) and (term.get("kind", "callable") == "callable" or "path" in term):
            raise runs.RunRefused(
                f"rewards: term {number + 1} is a Python function, which can be given on the command line alone"
            )


def _paths(project: Project, chosen: Mapping[str, Any]) -> dict[str, str]:
    paths = {name: chosen[name].path for name in BY_NAME if chosen.get(name)}
    if split := chosen.get("prompts"):
        paths["prompts"] = prompts_file(project, split)
    if run := chosen.get("completions_of"):
        paths["completions"] = str(run.path / "completions.jsonl")
    if chosen.get("demonstrations") or chosen.get("better_answers"):
        paths["train_data"] = demonstrations_file(
            project, chosen.get("demonstrations"), bool(chosen.get("better_answers"))
        )
    return paths


def better_answers(project: Project) -> Any:
    """Those that stand and may be learned from: held-out prompts are for measuring."""
    return (
        Edit.objects.current()
        .once()
        .filter(judgment__comparison__project=project, judgment__comparison__prompt__split="train")
    )


def demonstrations_file(project: Project, upload: UploadedFile | None, with_better_answers: bool) -> str:
    """Keep what was uploaded, and after it the better answers as they stand now, as one file under its hash.

    Returns its path. Raises RunRefused where better answers are wanted and there are none.
    """
    if with_better_answers and not better_answers(project).exists():
        raise runs.RunRefused("better_answers: nobody has written one to a training prompt yet")
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        for chunk in upload.chunks() if upload else ():
            file.write(chunk)
        if with_better_answers:
            if file.tell():
                file.write(b"\n")  # an uploaded file may end without one; the engine passes over empty lines
            file.writelines(stream_demonstrations(project, split="train"))
        file.flush()
        return str(storage.local_path(storage.put_file(Path(file.name), "demonstrations")))


def prompts_file(project: Project, split: str) -> str:
    """The project's prompts of a split as a file. Raises RunRefused where there are none."""
    rng = random.Random(0)
    splits = ["train", "eval"] if split == "all" else [split]
    prompts = [
        prompt for one in splits for prompt in candidates.choose_prompts(project, MOST_PROMPTS, one, rng)
    ]
    if not prompts:
        raise runs.RunRefused(f"prompts: the project has no {SPLITS[split]}; import some first")
    return candidates.write_prompts(prompts)


def defaults(project: Project, method: str) -> dict[str, Any]:
    """What is most likely meant: the policy in use, the newest reward model and dataset."""
    loop = LoopSettings.objects.select_related("policy", "first_policy").filter(project=project).first()
    rewards = versions(project, method, "reward_model")
    newest_reward = rewards.exclude(run__held_out=True).first()
    newest_held_out = rewards.filter(run__held_out=True).first()
    model = (loop.first_policy if method == "reward" else loop.policy) if loop else None
    return {
        "model": newest_reward if method == "score" else model,
        "reference_model": loop.first_policy if loop else None,
        "baseline_model": loop.first_policy if loop else None,
        "reward_model": newest_reward,
        "held_out_reward_model": newest_held_out,
        "second_judge_model": newest_held_out,
        "dataset": DatasetVersion.objects.filter(project=project).order_by("-number").first(),
        "prompts": "eval" if method == "evaluate" else "train",
        "completions_of": sampled_runs(project).first(),
    }


def model_files(version: ModelVersion) -> list[Path]:
    """The files of a version that lie on this machine, with those of its adapter; none of a hub name's.

    A first policy's folder is any folder that an operator named, so no other folder below it is looked into.
    """
    folder = Path(version.path)
    found = [path for place in (folder, folder / "adapter") if place.is_dir() for path in place.iterdir()]
    return sorted(path for path in found if path.is_file())


def file_name(version: ModelVersion, path: Path) -> str:
    """A file's name below its version's folder, such as adapter/adapter_config.json."""
    return path.relative_to(version.path).as_posix()
