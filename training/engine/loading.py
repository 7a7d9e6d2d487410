"""Model folders: policies and reward models loaded from them, whatever cannot be used named, and saved to them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from training.engine.config import EngineError, Settings, Training
from training.engine.ensemble import EnsembleHead
from training.engine.networks import LanguageHead, Policy, Scorer, recompute_activations
from training.engine.norms import quicken_norms
from training.engine.packing import read_few, take_lines, take_steps
from training.engine.runtime import Runtime
from training.engine.tensors import log_distribution
from training.engine.workspace import written_aside

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

ENSEMBLE_FILE = "ensemble.safetensors"


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Raises EngineError when there is none, or none that fits."""
    with _named_errors(source):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def end_tokens_of(source: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that end a completion, the tokenizer's own first. Raises EngineError without any."""
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    with _named_errors(source):
        configured = (
            AutoConfig.from_pretrained(source, trust_remote_code=False).get_text_config().eos_token_id
        )
    with contextlib.suppress(OSError):
        generation = transformers.GenerationConfig.from_pretrained(source).eos_token_id
        ids += generation if isinstance(generation, list) else [generation]
    ids += configured if isinstance(configured, list) else [configured]
    known = list(dict.fromkeys(token for token in ids if token is not None))
    if not known:
        raise EngineError(f"{source}: has no end token (EOS), so completions could not end")
    return known


def context_of(source: str) -> int | None:
    """Tokens that a model can read at once; None where it does not say."""
    with _named_errors(source):
        text_config = AutoConfig.from_pretrained(source, trust_remote_code=False).get_text_config()
    return getattr(text_config, "max_position_embeddings", None) or getattr(text_config, "n_positions", None)


def longest_row(config: Settings) -> int:
    """Tokens of the longest prompt and completion; the reward model adds an end."""
    return config.max_prompt_tokens + config.max_completion_tokens + 1


def check_context(source: str, config: Settings) -> None:
    """Raise EngineError when prompt and completion do not fit the model's context."""
    limit, wanted = context_of(source), longest_row(config)
    if limit and wanted > limit:
        raise EngineError(
            f"max_prompt_tokens: {config.max_prompt_tokens} and max_completion_tokens "
            f"{config.max_completion_tokens} (and 1) do not fit the {limit} positions of {source}"
        )


def load_policy(source: str, config: Settings, runtime: Runtime) -> Policy:
    """A policy in float32, dropout off. Raises EngineError when the model cannot be used."""
    tokenizer = load_tokenizer(source)
    ends = end_tokens_of(source, tokenizer)
    check_context(source, config)
    with _named_errors(source):
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    runtime = _settle(model, config, runtime)
    runtime = replace(runtime, steps=take_steps(model, runtime))
    policy = Policy(model, tokenizer, ends, LanguageHead(model, runtime), runtime)
    _check_head(policy, source)
    return policy


def load_scorer(source: str, config: Settings, runtime: Runtime, labels: int | None = None) -> Scorer:
    """A reward model, or what is to become one or a critic. Raises EngineError when it cannot be used.

    labels: of the head; null keeps those of a reward model, and gives a policy one.
    """
    tokenizer = load_tokenizer(source)
    ends = end_tokens_of(source, tokenizer)
    check_context(source, config)
    # The head may be new, and is then drawn from torch's own generator; reset_head draws it from ours.
    with _named_errors(source):
        model = AutoModelForSequenceClassification.from_pretrained(
            source,
            num_labels=labels or _labels_of(source),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
        )
    if not isinstance(getattr(model, "score", None), nn.Linear):
        raise EngineError(f"{source}: {type(model).__name__} has no linear head named score")
    runtime = _settle(model, config, runtime)
    mean = float(getattr(model.config, "score_mean", 0.0))
    return Scorer(model, tokenizer, ends, mean, runtime, load_ensemble(source, runtime))


def _settle(model: PreTrainedModel, config: Settings, runtime: Runtime) -> Runtime:
    """Bring a model to its device, with what computes the same in less; returns how rows are laid out for it."""
    model.to(runtime.device).eval()
    quicken_norms(model)
    if isinstance(config, Training) and config.gradient_checkpointing:
        recompute_activations(model)
    read_few(model, runtime)
    return replace(runtime, lines=take_lines(model, runtime, longest_row(config)))


def _labels_of(source: str) -> int:
    """A policy's config names two labels that it does not have."""
    saved = AutoConfig.from_pretrained(source, trust_remote_code=False)
    is_reward = any("ForSequenceClassification" in name for name in saved.architectures or ())
    return saved.num_labels if is_reward else 1


def load_ensemble(source: str, runtime: Runtime) -> EnsembleHead | None:
    """The members beside a reward model's head, where it has any."""
    path = Path(source) / ENSEMBLE_FILE
    if not path.is_file():
        return None
    with _named_errors(str(path)):
        return EnsembleHead.restored(load_file(path)).to(runtime.device)


def read_head(source: str) -> tuple[Tensor, float]:
    """A reward model's head and its mean score, without the weights in between. Raises EngineError."""
    with _named_errors(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        for file in sorted(Path(source).glob("*.safetensors")):
            with safe_open(file, framework="pt") as weights:
                if "score.weight" in weights.keys():  # noqa: SIM118 (not a mapping)
                    return weights.get_tensor("score.weight").float(), float(
                        getattr(config, "score_mean", 0.0)
                    )
    raise EngineError(f"{source}: has no head named score")


def save_model(
    network: Policy | Scorer, folder: Path, add: Callable[[Path], None] = lambda folder: None
) -> None:
    """An ordinary Hugging Face folder, put in place whole, with an ensemble's members and what `add` writes.

    Raises EngineError when the disk refuses.
    """
    if not network.runtime.processes.is_first:
        return
    with written_aside(folder) as aside:
        network.model.save_pretrained(aside, safe_serialization=True)
        network.tokenizer.save_pretrained(aside)
        add(aside)
        if ensemble := getattr(network, "ensemble", None):
            values = {name: value.cpu().contiguous() for name, value in ensemble.state_dict().items()}
            save_file(values, aside / ENSEMBLE_FILE)


def _check_head(policy: Policy, source: str) -> None:
    """Compare our way to the logits with the model's own, so that no architecture is misread silently."""
    ids = torch.tensor([[policy.end_tokens[0]]], device=policy.runtime.device)
    with torch.inference_mode():
        own = torch.log_softmax(policy.model(input_ids=ids, use_cache=False).logits[0].float(), -1)
        hidden = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        ours = log_distribution(policy.head, hidden, 1.0)
    if not torch.allclose(own, ours, atol=policy.runtime.tolerance):
        raise EngineError(f"{source}: the output layer of {type(policy.model).__name__} is not understood")


@contextlib.contextmanager
def _named_errors(source: str) -> Iterator[None]:
    """transformers' own complaint, in one sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        detail = " ".join(str(error).split())
        raise EngineError(f"{source}: cannot be loaded ({detail[:300]})") from error
