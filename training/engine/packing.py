"""What a model can be read by: rows on one line, packed or without padding, and at fewer places than it has."""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from training.engine.batches import Batch, Tokens, make_batch, pack_batch
from training.engine.cohorts import Cohorts, make_cache
from training.engine.last_layer import narrow, widen
from training.engine.lines import NAME, make_line
from training.engine.networks import Policy, hidden_states
from training.engine.runtime import Runtime

PROBE = (5, 3, 7)  # Lengths of the rows that are read both ways.
TOLERANCE = 1e-4  # Of a state after the last norm, whose scale is about 1; float32 keeps within 1e-5.


def why_not_packed(policy: Policy, rows: Sequence[Tokens]) -> str | None:
    """Why these rows must not be packed for this model, in words; None where they may.

    Packing needs a model that takes positions and a mask of its own shape. Not all do, and some drop the
    mask silently, so a few rows are read both ways and compared.
    """
    window = _window(policy.model)
    longest = max(row.length for row in rows)
    if window and longest > window:
        return f"it attends within windows of {window} tokens, which a mask of ours would undo"
    runtime = Runtime(policy.runtime.device, torch.float32)
    probes = _probes(policy.model)
    try:
        packed = _states(policy.model, pack_batch(probes, runtime.device, width=sum(PROBE)), runtime)
    except Exception as error:  # Architectures fail as they like on a mask that they do not know.
        return f"it does not take a mask of four dimensions ({type(error).__name__})"
    if not torch.allclose(packed, _alone(policy.model, probes, runtime), atol=TOLERANCE, rtol=TOLERANCE):
        return "rows on one line would see each other"
    return None


def take_lines(model: PreTrainedModel, runtime: Runtime, longest: int) -> bool:
    """Let a model's attention read lines of rows without padding; says whether it does, and else leaves it as it was.

    Not where attention is another than transformers' usual one, nor where a model's layers do not ask it alone:
    a few rows, two of one prompt, are read both ways and compared. Nor where some rows (`longest`, in tokens) are longer
    than a window that layers have in their mask alone, whose place a line takes.
    """
    usual = model.config._attn_implementation
    if usual != "sdpa":
        return False
    runtime = Runtime(runtime.device, torch.float32)
    first, second, third = _probes(model)
    probes = [first, second, third, Tokens(first.prompt, third.completion)]
    alone = _alone(model, probes, runtime)
    model.set_attn_implementation(NAME)
    with contextlib.suppress(Exception):  # as above
        batch = make_line(probes, runtime.device)
        is_same = torch.allclose(_states(model, batch, runtime), alone, atol=TOLERANCE, rtol=TOLERANCE)
        window = _window(model)
        if is_same and (window is None or longest <= window or window in batch.mask.windows):
            return True
    model.set_attn_implementation(usual)
    return False


@torch.no_grad()
def take_steps(model: PreTrainedModel, runtime: Runtime) -> bool:
    """Whether attention that reads lines may read the cache cohort by cohort while sampling.

    Not where a layer does more with keys and values once they are cached, or takes another layer's: two cohorts go on for
    two tokens, and are compared with whole rows.
    """
    cohorts = make_cache(model, len(PROBE), 2, takes_steps=True, is_still=False)
    if not runtime.lines or not isinstance(cohorts, Cohorts):
        return False
    rows = [probe.prompt + probe.completion for probe in _probes(model)]
    with contextlib.suppress(Exception):  # as above
        for numbers in ([0, 1], [2]):
            prompts = [Tokens(rows[number][:-3], rows[number][-3:-2]) for number in numbers]
            batch = make_batch(prompts, runtime.device, left=True)
            prefilled = cohorts.for_prefill()
            _last_states(model, batch.ids, batch.mask, batch.positions, prefilled)
            cohorts.admit(prefilled, list(range(len(numbers))), [prompt.length for prompt in prompts])
        for place in (-2, -1):
            ids = torch.tensor([[row[place]] for row in rows], device=runtime.device)
            positions = torch.tensor([[len(row) + place] for row in rows], device=runtime.device)
            stepped = _last_states(model, ids, cohorts.mask(), positions, cohorts)
            cohorts.advance()
        whole = [
            model.base_model(input_ids=torch.tensor([row], device=runtime.device), use_cache=False)
            for row in rows
        ]
        alone = torch.cat([output.last_hidden_state[:, -1] for output in whole])
        return torch.allclose(stepped, alone, atol=TOLERANCE, rtol=TOLERANCE)
    return False


def _last_states(
    model: PreTrainedModel, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Cache
) -> Tensor:
    output = model.base_model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    return output.last_hidden_state[:, -1]


def read_few(model: PreTrainedModel, runtime: Runtime) -> bool:
    """Let a model's last layer leave out places that nobody reads; says whether it does.

    Not where some layer's parts do more than look at one place at a time: a few rows are read both ways.
    """
    runtime = Runtime(runtime.device, torch.float32)
    rows = _probes(model)
    few = make_batch(
        [Tokens(row.prompt + row.completion[:-1], row.completion[-1:]) for row in rows], runtime.device
    )
    narrowed: list[nn.Module] = []
    with contextlib.suppress(Exception):  # as above
        usual = _states(model, few, runtime)
        narrowed = narrow(model.base_model)
        if torch.allclose(_states(model, few, runtime), usual, atol=TOLERANCE, rtol=TOLERANCE):
            return bool(narrowed)
    widen(narrowed)
    return False


def _window(model: PreTrainedModel) -> int | None:
    """Tokens that some layer looks back on; None where all look back on everything."""
    config = model.config.get_text_config()
    found = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((size for size in found if size), default=None)


def _probes(model: PreTrainedModel) -> list[Tokens]:
    """Rows of differing tokens; each is predicted from its second token on."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = [(7 * place + 1) % vocabulary for place in range(sum(PROBE))]
    parts = torch.tensor(tokens).split(PROBE)
    return [Tokens(part[:1].tolist(), part[1:].tolist()) for part in parts]


def _alone(model: PreTrainedModel, rows: Sequence[Tokens], runtime: Runtime) -> Tensor:
    return torch.cat([_states(model, make_batch([row], runtime.device), runtime) for row in rows])


@torch.no_grad()
def _states(model: PreTrainedModel, batch: Batch, runtime: Runtime) -> Tensor:
    return hidden_states(model, batch, batch.predicting, runtime).float()
