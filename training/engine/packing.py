"""Whether a model reads several rows on one line as it reads each of them alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.engine.batches import Batch, Tokens, make_batch, pack_batch
from training.engine.networks import Policy, hidden_states
from training.engine.runtime import Runtime

PROBE = (5, 3, 7)  # Lengths of the rows that are read both ways.
TOLERANCE = 1e-4  # Of a state after the last norm, whose scale is about 1; float32 keeps within 1e-5.


def why_not_packed(policy: Policy, rows: Sequence[Tokens]) -> str | None:
    """Why these rows must not be packed for this model, in words; None where they may.

    Packing needs a model that takes positions and a mask of its own shape. Not all do, and some drop the
    mask silently, so a few rows are read both ways and compared.
    """
    window = _window(policy)
    longest = max(row.length for row in rows)
    if window and longest > window:
        return f"it attends within windows of {window} tokens, which a mask of ours would undo"
    runtime = Runtime(policy.runtime.device, torch.float32)
    probes = _probes(policy.head.vocabulary)
    try:
        packed = _states(policy, pack_batch(probes, runtime.device, width=sum(PROBE)), runtime)
    except Exception as error:  # Architectures fail as they like on a mask that they do not know.
        return f"it does not take a mask of four dimensions ({type(error).__name__})"
    alone = torch.cat([_states(policy, make_batch([row], runtime.device), runtime) for row in probes])
    if not torch.allclose(packed, alone, atol=TOLERANCE, rtol=TOLERANCE):
        return "rows on one line would see each other"
    return None


def _window(policy: Policy) -> int | None:
    """Tokens that some layer looks back on; None where all look back on everything."""
    config = policy.model.config.get_text_config()
    found = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((size for size in found if size), default=None)


def _probes(vocabulary: int) -> list[Tokens]:
    """Rows of differing tokens; each is predicted from its second token on."""
    tokens = [(7 * place + 1) % vocabulary for place in range(sum(PROBE))]
    parts = torch.tensor(tokens).split(PROBE)
    return [Tokens(part[:1].tolist(), part[1:].tolist()) for part in parts]


@torch.no_grad()
def _states(policy: Policy, batch: Batch, runtime: Runtime) -> Tensor:
    return hidden_states(policy.model, batch, runtime)[batch.predicting].float()
