"""What one GPU does with models of real shape and random weights: generation, PPO and GRPO.

    python -m benchmarks.gpu --sizes 0.5b 1.5b

Tokens a second in generation beside transformers' `generate` and beside what memory bandwidth allows, episodes
a second, the share of the matrix units' speed that an update reaches, and peak memory. With random weights no
answer ends by itself, so every one is as long as it may be. `--device cpu --sizes tiny` shows that it runs.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Qwen2Config

from benchmarks.meter import status_bytes
from benchmarks.ours import METHOD, NEVER, UNGUARDED
from docs.draw_learning_curves import DEMO
from training.engine.batches import Encoder
from training.engine.config import METHODS, Generate
from training.engine.generation import Sampling, sample
from training.engine.loading import load_policy, load_tokenizer
from training.engine.networks import generator
from training.engine.records import PromptRecord, read_records
from training.engine.runtime import settle
from training.engine.workspace import Workspace

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 1  # iterations that are not counted


@dataclass(frozen=True)
class Shape:
    """A model and the work it is given."""

    layers: int
    width: int
    heads: int
    key_value_heads: int
    inner_width: int
    vocabulary: int
    prompt_tokens: int  # at most
    completion_tokens: int
    batch: int  # completions
    pass_tokens: int  # of one forward pass

    def config(self) -> Qwen2Config:
        """As transformers reads it; the special tokens are those of the demo's tokenizer."""
        return Qwen2Config(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner_width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )

    @property
    def cache_bytes(self) -> int:
        """Of keys and values of one token in bfloat16."""
        return 2 * 2 * self.layers * self.key_value_heads * (self.width // self.heads)


SHAPES = {
    "tiny": Shape(2, 64, 4, 2, 128, 1536, 64, 16, 16, 1024),
    # Qwen2.5's, with its vocabulary
    "0.5b": Shape(24, 896, 14, 2, 4864, 151_936, 256, 256, 64, 16_384),
    "1.5b": Shape(28, 1536, 12, 2, 8960, 151_936, 256, 256, 64, 16_384),
}


class _Enough(Exception):
    """All iterations were measured; checkpoint and final measurement are left out."""


class Bench:
    """The measurements of one shape on one device."""

    def __init__(self, size: str, device: str, work: Path, steps: int, lora_rank: int) -> None:
        self.shape, self.device, self.steps, self.lora_rank = SHAPES[size], device, steps, lora_rank
        self.folder = work / size
        self.policy, self.reward_model, self.prompts = make_models(self.shape, self.folder)
        self.parameters = sum(weights.numel() for weights in self._load_plain().parameters())
        self.reading = Generate(
            model=self.policy,
            prompts=self.prompts,
            max_prompt_tokens=self.shape.prompt_tokens,
            max_completion_tokens=self.shape.completion_tokens,
            micro_batch_tokens=self.shape.batch * (self.shape.prompt_tokens + self.shape.completion_tokens),
        )
        tokenizer = load_tokenizer(self.policy)
        encoder = Encoder(tokenizer, [tokenizer.eos_token_id], self.reading)
        self.prompt_ids = encoder.prompts([row.messages for row in read_records(self.prompts, PromptRecord)])

    def generation(self) -> dict[str, float]:
        """Tokens a second of ours and of transformers, and what reading weights and cache once a token allows."""
        shape, ids = self.shape, self.prompt_ids[: self.shape.batch]
        found = {"ours": self._ours(ids), "transformers": self._theirs(ids)}
        found["ratio"] = found["ours"] / found["transformers"]
        context = max(map(len, ids)) + shape.completion_tokens / 2
        read = 2 * self.parameters + shape.batch * shape.cache_bytes * context
        found["bandwidth_limit"] = shape.batch * memory_bandwidth(self.device) / read
        found["share_of_limit"] = found["ours"] / found["bandwidth_limit"]
        return found

    def _ours(self, ids: list[list[int]]) -> float:
        config = self.reading.model_copy(update={"device": self.device})
        policy = load_policy(self.policy, config, settle(config))
        how = Sampling(config.max_completion_tokens)

        def answer() -> int:
            completions = sample(policy, ids, how, generator(0, "sampling"), config.micro_batch_tokens)
            return sum(len(completion.tokens) for completion in completions)

        return tokens_per_second(answer, self.device)

    def _theirs(self, ids: list[list[int]]) -> float:
        self._forget()
        model, width = self._load_plain().to(self.device).eval(), max(map(len, ids))
        rows = torch.tensor([[0] * (width - len(row)) + row for row in ids], device=self.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=self.device)
        limit = self.shape.completion_tokens

        def answer() -> int:
            sampled = model.generate(
                input_ids=rows, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=limit
            )
            return int((sampled[:, width:] != 0).sum())

        return tokens_per_second(answer, self.device)

    def training(self, method: str) -> dict[str, float]:
        """Episodes a second, peak memory, and how much of the processor's speed the update gets out."""
        self._forget()
        config = METHODS[method].model_validate(self._config(method))
        out = self.folder / method
        shutil.rmtree(out, ignore_errors=True)
        workspace = Workspace(out)
        workspace.open(config)
        rows: list[dict[str, float]] = []

        def keep(step: int, metrics: dict[str, float]) -> None:
            rows.append(metrics)
            if step == config.steps:
                raise _Enough

        workspace.events.metrics = keep  # type: ignore[method-assign]
        with suppress(_Enough):
            METHOD[method](config, workspace)
        workspace.close()
        if len(rows) < config.steps:
            raise RuntimeError(f"{method} ended after {len(rows)} of {config.steps} iterations")
        counted = rows[WARM_UP:]
        rollout, update = (
            sum(row[name] for row in counted) / len(counted) for name in ("rollout_seconds", "update_seconds")
        )
        # Forward and backward take six operations a weight and token; PPO's critic is as large as the policy.
        networks = 2 if method == "ppo" else 1
        length = sum(row["length"] for row in counted) / len(counted)
        length += sum(map(len, self.prompt_ids)) / len(self.prompt_ids)
        operations = 6 * self.parameters * networks * config.epochs * config.batch_size * length
        return {
            "episodes_per_second": config.batch_size / (rollout + update),
            "rollout_seconds": rollout,
            "update_seconds": update,
            "update_utilisation": operations / update / matrix_speed(self.device),
            "peak_gigabytes": self._peak() / 1e9,
        }

    def _config(self, method: str) -> dict[str, Any]:
        shape = self.shape
        return {
            **UNGUARDED,
            "model": self.policy,
            "reward_model": self.reward_model,
            "prompts": self.prompts,
            "device": self.device,
            "steps": WARM_UP + self.steps,
            "batch_size": shape.batch,
            "minibatch_size": shape.batch // 2,
            "max_prompt_tokens": shape.prompt_tokens,
            "max_completion_tokens": shape.completion_tokens,
            "micro_batch_tokens": shape.pass_tokens,
            "learning_rate": 1e-6,
            "lora_rank": self.lora_rank,
            "checkpoint_every_steps": NEVER,
            **({"critic_warmup_steps": 0, "epochs": 2} if method == "ppo" else {"samples_per_prompt": 8}),
        }

    def _load_plain(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.policy, dtype=torch.bfloat16)

    def _forget(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else status_bytes("VmHWM")


def make_models(shape: Shape, folder: Path) -> tuple[str, str, str]:
    """Policy and reward model of random weights, and prompts of some length; what is there is kept."""
    policy, reward, prompts = folder / "policy", folder / "reward", folder / "prompts.jsonl"
    if not prompts.exists():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(shape.config(), dtype=torch.bfloat16).save_pretrained(policy)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(DEMO / "policy" / name, policy / name)
        scorer = AutoModelForSequenceClassification.from_pretrained(
            policy, num_labels=1, dtype=torch.bfloat16
        )
        scorer.save_pretrained(reward)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(DEMO / "policy" / name, reward / name)
        messages = [json.loads(line)["prompt"] for line in (DEMO / "prompts.jsonl").read_text().splitlines()]
        joined = (" ".join(messages[number : number + 12]) for number in range(0, 12 * 40, 6))
        prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in joined))
    return str(policy), str(reward), str(prompts)


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds until the device has done it, and what came of it."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    began = time.monotonic()
    result = work()
    wait()
    return time.monotonic() - began, result


def tokens_per_second(answer: Callable[[], int], device: str) -> float:
    """Of the second call; the first one warms up."""
    with torch.inference_mode():
        answer()
        seconds, tokens = timed(answer, device)
    return tokens / seconds


def memory_bandwidth(device: str) -> float:
    """Bytes a second, measured: a copy reads and writes each byte."""
    size = 2**30 if device == "cuda" else 2**26
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    times = [timed(lambda: target.copy_(source), device)[0] for _ in range(5)]
    return 2 * size / min(times)


def matrix_speed(device: str) -> float:
    """Operations a second, measured: of the product of two large square matrices in bfloat16."""
    width = 8192 if device == "cuda" else 512
    one, other = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))
    one @ other
    times = [timed(lambda: one @ other, device)[0] for _ in range(5)]
    return 2 * width**3 / min(times)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=["0.5b", "1.5b"])
    parser.add_argument(
        "--only", nargs="+", choices=["generation", "ppo", "grpo"], default=["generation", "ppo", "grpo"]
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=3, help="iterations that are counted")
    parser.add_argument(
        "--lora-rank", type=int, default=0, help="of adapters on a shared base; 0 trains all weights"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "var" / "bench" / "gpu", help="folder for the models"
    )
    parser.add_argument("--out", type=Path, help="file for the JSON as well")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no CUDA device here; --device cpu --sizes tiny shows that the commands run.")

    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    report: dict[str, Any] = {"device": name, "torch": torch.__version__, "sizes": {}}
    for size in given.sizes:
        bench = Bench(size, given.device, given.work.resolve(), given.steps, given.lora_rank)
        found: dict[str, Any] = {"parameters": bench.parameters}
        for what in given.only:
            found[what] = bench.generation() if what == "generation" else bench.training(what)
            figures = {name: float(f"{value:.4g}") for name, value in found[what].items()}
            print(f"{size} {what} {json.dumps(figures)}", flush=True)
        report["sizes"][size] = found
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
