"""What an online run remembers between iterations: weights to return to, the best policy, what was measured.

All of it is in the checkpoint, so that a run that was killed ends as one that never was.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from training.engine.checkpoints import Checkpoints, part, prefixed, restore
from training.engine.evaluate import write_records
from training.engine.guards import GuardStop, Look, best_look, check_held_out
from training.engine.marking import KEPT_ROLLOUTS, candidates, choose, scale_of
from training.engine.online_settings import Online
from training.engine.overoptimisation import RewardCurve, fit_curve
from training.engine.rollout import Rollout
from training.engine.updates import Updater
from training.engine.workspace import Workspace

MAX_BROKEN_ITERATIONS = 3  # in a row
# Of a first policy that did not pass: it is saved as it came.
NOTHING_MEASURED = {"steps": 0, "kl_nats": None, "kl_interval": None, "reward_mean": None}


class Learners(Protocol):
    """What learning changes."""

    def weights(self) -> dict[str, dict[str, torch.nn.Parameter]]:
        """By network and name."""

    def updaters(self) -> dict[str, Updater]:
        """Of the same networks."""


@dataclass
class Progress:
    """What the loop remembers, beside weights and optimisers; plain values, all of it saved."""

    kl_coefficient: float
    broken: int = 0  # iterations in a row in which something was not finite
    unproven: bool = False  # whether the last update seemed sound and no rollout has shown it yet
    rollbacks: int = 0  # over the whole run
    first: dict[str, float] = field(default_factory=dict)  # metrics of the first rollout
    good: dict[str, Any] = field(default_factory=dict)  # what was measured of the last good policy
    best: dict[str, Any] = field(default_factory=dict)  # and of the best by the held-out reward model
    # By iteration: a resumed run samples the rollout at which it was saved again.
    looks: dict[int, dict[str, float]] = field(default_factory=dict)  # of the held-out reward model
    scale: dict[str, list[float]] = field(default_factory=dict)  # deviations at the start, for marking
    marked: dict[int, list[dict[str, Any]]] = field(default_factory=dict)  # candidates of the last rollouts


@dataclass
class Snapshot:
    """Weights and optimisers of every network, apart from what goes on learning; in main memory."""

    tensors: dict[str, Tensor]  # names as in a checkpoint: network/weight
    updaters: dict[str, Any]


class OnlineState:
    """Keeps and brings back what is worth keeping of an online run."""

    def __init__(self, learners: Learners, config: Online, workspace: Workspace) -> None:
        self.progress = Progress(config.kl_coefficient)
        self._config = config
        self._workspace = workspace
        self._weights, self._updaters = learners.weights(), learners.updaters()
        self._checkpoints = Checkpoints(workspace.folder, workspace.events, workspace.processes)
        self._good = self._snapshot()  # the last state whose rollout passed every guard
        self._is_good = True  # whether that is the present state
        self._best: dict[str, Tensor] = {}  # policy weights; none without a held-out reward model

    # Checkpoints

    def resume(self) -> int:
        """Take up what an interrupted run left; returns its iterations done."""
        saved = self._checkpoints.load()
        if not saved:
            return 0
        self._return_to(Snapshot(saved.tensors, saved.state["updaters"]))
        self.progress = Progress(**saved.state["progress"])
        good = part("good", saved.tensors)
        self._is_good = not good
        self._good = Snapshot(good, saved.state["good"]) if good else self._snapshot()
        self._best = part("best", saved.tensors)
        return saved.step

    def save(self, step: int) -> None:
        """Write a checkpoint; the last good state is in it where that is not the present one."""
        # The best policy may be the last good one, and one file does not hold the same memory twice.
        tensors: dict[str, Tensor] = prefixed("best", copied(self._best))
        for name, network in self._weights.items():
            tensors |= prefixed(name, network)
        if not self._is_good:
            tensors |= prefixed("good", self._good.tensors)
        state = {
            "updaters": {name: updater.state_dict() for name, updater in self._updaters.items()},
            "good": {} if self._is_good else self._good.updaters,
            "progress": vars(self.progress),
        }
        self._checkpoints.save(step, tensors, state)

    # What a rollout says

    def mark(self, rollout: Rollout, step: int) -> None:
        """Remember what people should see of it, also of one that a guard is about to stop at."""
        progress, config = self.progress, self._config
        progress.scale = scale_of(rollout) | progress.scale
        progress.marked[step] = candidates(
            rollout, progress.scale, config.marked_samples, config.samples_per_prompt
        )
        for old in sorted(progress.marked)[:-KEPT_ROLLOUTS]:
            del progress.marked[old]

    def look(self, rollout: Rollout, step: int) -> None:
        """Remember what both reward models say. Raises GuardStop when they have parted."""
        if rollout.held_out is None:
            return
        metrics = rollout.metrics
        look = Look(
            step,
            metrics["exact_kl"],
            metrics["reward"],
            metrics["held_out_reward"],
            metrics["held_out_error"],
        )
        self.progress.looks[step] = asdict(look)
        curve = self.curve
        if curve and curve.peak_kl is not None:
            metrics["predicted_peak_kl"] = curve.peak_kl
        check_held_out(self._looks, self._config.held_out_tolerance)

    def accept(self, rollout: Rollout, summary: dict[str, Any]) -> None:
        """The policy that wrote this passed every guard: it is the last good one, and perhaps the best."""
        if self.progress.unproven:
            self.progress.broken = 0
        self.progress.good = summary
        self._good, self._is_good = self._snapshot(), True
        if rollout.held_out is not None and best_look(self._looks).step == summary["steps"]:
            self.progress.best = summary
            self._best = part("policy", self._good.tensors)

    # What an update does

    def after_update(self, refused_updates: float) -> None:
        """Undo an update that left weights that are not finite; count what was broken."""
        self._is_good = False
        self.progress.unproven = not refused_updates
        if not all(bool(torch.isfinite(weight).all()) for _, weight in self._named_weights()):
            self.roll_back("a weight")
        elif refused_updates:
            self._count_broken("gradients")

    def roll_back(self, broken: str) -> None:
        """Return to the last good state. Raises GuardStop when that happens again and again."""
        self._return_to(self._good)
        self._is_good = True
        self.progress.unproven = False
        self.progress.rollbacks += 1
        self._workspace.events.message(
            "warning", f"{broken} is not a finite number: back to the last good state, on with the next batch"
        )
        self._count_broken("weights, probabilities or rewards")

    def _count_broken(self, what: str) -> None:
        self.progress.broken += 1
        if self.progress.broken >= MAX_BROKEN_ITERATIONS:
            raise GuardStop(f"{what} were not finite in {MAX_BROKEN_ITERATIONS} iterations in a row")

    # The end

    @property
    def curve(self) -> RewardCurve | None:
        """The held-out reward against KL, where that can be told."""
        looks = self._looks
        return fit_curve([look.kl for look in looks], [look.held_out for look in looks])

    def keep(self) -> dict[str, Any]:
        """Put the policy that is to be saved in place; returns what was measured of it."""
        restore(self._weights["policy"], self._best or part("policy", self._good.tensors))
        figures = self.progress.best or self.progress.good or NOTHING_MEASURED
        return {
            **figures,
            "kept": "best by the held-out reward model" if self._best else "last within limits",
            "kept_step": figures["steps"],
        }

    def describe(self) -> dict[str, Any]:
        """What the result says of the run as a whole."""
        names = ("reward", "held_out_reward", "entropy", "length", "eos_rate", "distinct_2")
        return {
            "kl_budget_nats": self._config.kl_budget_nats,
            "kl_coefficient": self.progress.kl_coefficient,
            "rollbacks": self.progress.rollbacks,
            "overoptimisation": self.curve and self.curve.describe(),
            "first": {name: self.progress.first.get(name) for name in names},
        }

    def write_marked(self) -> None:
        """Leave OUT/marked.jsonl, for people to look at."""
        found = [one for of_rollout in self.progress.marked.values() for one in of_rollout]
        write_records(self._workspace, "marked.jsonl", choose(found, self._config.marked_samples))

    # Weights

    @property
    def _looks(self) -> list[Look]:
        return [Look(**look) for look in self.progress.looks.values()]

    def _named_weights(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [
            (f"{network}/{name}", weight)
            for network, weights in self._weights.items()
            for name, weight in weights.items()
        ]

    def _snapshot(self) -> Snapshot:
        states = {name: updater.state_dict() for name, updater in self._updaters.items()}
        return Snapshot({name: copied(weight) for name, weight in self._named_weights()}, copied(states))

    def _return_to(self, snapshot: Snapshot) -> None:
        for name, network in self._weights.items():
            restore(network, part(name, snapshot.tensors))
            # An optimiser goes on with the very tensors that it is given.
            self._updaters[name].load_state_dict(copied(snapshot.updaters[name]))


def copied(value: Any) -> Any:
    """Tensors, and what holds them, in main memory and apart from what goes on learning."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    return [copied(one) for one in value] if isinstance(value, list) else value
