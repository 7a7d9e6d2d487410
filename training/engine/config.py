"""The methods and their settings: defaults, help, and config files with errors that name line and field."""

import json
import re
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from pydantic import ValidationError

from training.engine.online_settings import Grpo, Ppo, Rloo
from training.engine.reward_settings import TERM_KINDS, CallableReward
from training.engine.settings import (
    Dpo,
    EngineError,
    Evaluate,
    Generate,
    Reward,
    Score,
    Settings,
    Sft,
    Training,
    server_url,
)

__all__ = [
    "METHODS", "CallableReward", "Dpo", "EngineError", "Evaluate", "Generate", "Grpo", "Ppo", "Reward", "Rloo", "Score", "Settings",
    "Sft", "Training", "check_sources", "default_config", "describe", "explain", "load_config", "models_of",
    "server_url",
]  # fmt: skip

METHODS: dict[str, type[Settings]] = {
    "sft": Sft,
    "reward": Reward,
    "ppo": Ppo,
    "grpo": Grpo,
    "rloo": Rloo,
    "dpo": Dpo,
    "generate": Generate,
    "score": Score,
    "evaluate": Evaluate,
}

MODEL_FIELDS = (
    "model", "reference_model", "reward_model", "held_out_reward_model", "baseline_model", "judge_model",
    "second_judge_model", "policy_model",
)  # fmt: skip
FILE_FIELDS = ("train_data", "eval_data", "replay_data", "prompts", "replay_prompts", "completions")


def default_config(method: str) -> dict[str, Any]:
    """Every field of a method: its default, or an example where it must be given."""
    config: dict[str, Any] = {}
    for name, field in METHODS[method].model_fields.items():
        # An optional field with an example shows it: a config without any reward would be refused.
        config[name] = field.examples[0] if field.examples else field.get_default()
    return json.loads(json.dumps(config))


def describe(method: str) -> str:
    """The help of a method: each field with its type, default, meaning, unit and range."""
    model = METHODS[method]
    lines = [f"{method}: {model.__doc__}", ""]
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"default {json.dumps(field.default)}"
        limits = ", ".join(limit for part in field.metadata if (limit := _limit(part)))
        bounds = f"; {limits}" if limits else ""
        lines += [
            f"  {name} ({_type_name(field.annotation)}; {default}{bounds})",
            f"      {field.description}",
        ]
    if "rewards" in model.model_fields:
        lines += ["", "  Terms of `rewards`:", *_describe_terms()]
    return "\n".join(lines)


def _describe_terms() -> list[str]:
    """Each kind of reward term with what can be set for it; what all share is said once."""
    shared = ("weight", "name")
    lines = [f"    {name}: {CallableReward.model_fields[name].description}" for name in shared]
    for kind, term in TERM_KINDS.items():
        lines.append(f"    {kind}: {term.__doc__}")
        for name, field in term.model_fields.items():
            if name not in (*shared, "kind"):
                default = "required" if field.is_required() else f"default {json.dumps(field.default)}"
                lines.append(f"      {name} ({_type_name(field.annotation)}; {default}): {field.description}")
    return lines


def _limit(part: Any) -> str:
    for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        if (value := getattr(part, attribute, None)) is not None:
            return f"{sign} {value:g}"
    return ""


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, UnionType):
        return " or ".join(_type_name(part) for part in get_args(annotation))
    if annotation is type(None):
        return "null"
    if hasattr(annotation, "__name__") and not get_args(annotation):
        return {"str": "text", "int": "integer", "float": "number"}.get(annotation.__name__, "object")
    arguments = get_args(annotation)
    if arguments and all(isinstance(part, str) for part in arguments):
        return " | ".join(arguments)
    return "list"


def load_config(method: str, path: str | Path) -> Settings:
    """Read and check a config file. Raises EngineError naming file, line and field."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"{path}: cannot be read ({error})") from error
    try:
        values = json.loads(text, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise EngineError(f"{path}: must hold a JSON object")
    try:
        return METHODS[method].model_validate(values)
    except ValidationError as error:
        raise EngineError(f"{path}{_line_of(text, error)}: {explain(error)}") from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values for one key the reader could only guess which was meant."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twin = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"{twin} is given twice")
    return values


def explain(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as a sentence with the field's name."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in _place(first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"{field}: there is no such setting"
    if first["type"] == "missing":
        return f"{field}: must be given"
    message = first["msg"].removeprefix("Value error, ")
    if not field:
        return message
    if first["type"] == "value_error":
        return f"{field}: {message}"
    return f"{field}: {message[0].lower()}{message[1:]}, not {_short(first.get('input'))}"


def _place(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where a value stands in the file: without the kind that pydantic puts after a reward term's number."""
    if location[:1] == ("rewards",) and location[2:3] and location[2] in TERM_KINDS:
        return location[:2] + location[3:]
    return location


def _short(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _line_of(text: str, error: ValidationError) -> str:
    location = error.errors(include_url=False)[0]["loc"]
    found = re.search(rf'"{re.escape(str(location[0]))}"\s*:', text) if location else None
    return f" line {text.count(chr(10), 0, found.start()) + 1}" if found else ""


def models_of(config: Settings) -> dict[str, str]:
    """The models that a run loads, by the setting that names each; none where a server is asked instead."""
    if getattr(config, "server", None):
        return {}
    return {name: source for name in MODEL_FIELDS if (source := getattr(config, name, None))}


def check_sources(config: Settings) -> None:
    """Raise EngineError when a named model folder or data file cannot be used, before weights load."""
    for name, source in models_of(config).items():
        _check_model(name, source, config.model_kinds.get(name, "policy"))
    for name in FILE_FIELDS:
        source = getattr(config, name, None)
        if source and not Path(source).is_file():
            raise EngineError(f"{name}: there is no file {source}")


def _check_model(name: str, source: str, kind: str) -> None:
    folder = Path(source)
    if not folder.is_dir():
        if folder.is_absolute() or source.startswith(".") or source.count("/") > 1:
            raise EngineError(f"{name}: there is no folder {source}")
        return  # A hub name; transformers says whether it can be reached.
    if not (folder / "config.json").is_file():
        raise EngineError(f"{name}: {source} has no config.json, so it is not a model folder")
    if not any(folder.glob("*.safetensors")):
        raise EngineError(f"{name}: {source} has no *.safetensors; pickled weights are not loaded")
    is_reward = "ForSequenceClassification" in (folder / "config.json").read_text()
    if is_reward != (kind == "reward"):
        is_a, wanted = ("reward model", "policy") if is_reward else ("policy", "reward model")
        raise EngineError(f"{name}: {source} is a {is_a}, not a {wanted}")
