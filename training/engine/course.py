"""Epochs over the rows of a file, as sft, reward and dpo take them: go on where a run stopped, learn, log, save."""

from collections.abc import Callable

from transformers import PreTrainedModel

from training.engine.checkpoints import Checkpoints, part, prefixed, restore
from training.engine.config import Dpo, EngineError, Reward, Sft
from training.engine.networks import describe_training, learning_rate, trained_parameters
from training.engine.runtime import Runtime
from training.engine.updates import Updater
from training.engine.workspace import StopRequested, Workspace

MAX_REFUSED = 10  # updates whose gradients were not finite

# A step learned by this updater, and whether its metrics will be logged, to those metrics.
Learn = Callable[[Updater, int, bool], dict[str, float]]


def take_course(
    name: str,
    model: PreTrainedModel,
    runtime: Runtime,
    per_epoch: int,
    learn: Learn,
    config: Sft | Reward | Dpo,
    workspace: Workspace,
) -> int:
    """Every step of every epoch, or what an interrupted run has left of them; returns a whole run's steps.

    name: of the network in checkpoints. per_epoch: steps. Raises EngineError when gradients stay not finite.
    """
    steps = per_epoch * config.epochs
    parameters = trained_parameters(model)
    rate = learning_rate(config.learning_rate, model, config)
    workspace.events.message("info", describe_training(model, parameters, rate, runtime))
    updater = Updater(parameters, rate, steps, config, runtime.processes)
    checkpoints = Checkpoints(workspace.folder, workspace.events, runtime.processes)
    start = 0
    if saved := checkpoints.load():
        restore(parameters, part(name, saved.tensors))
        updater.load_state_dict(saved.state["updater"])
        start = saved.step
    for step in range(start, steps):
        last = step + 1 == steps
        logs = last or (step + 1) % config.log_every_steps == 0
        metrics = learn(updater, step, logs)
        if updater.refused > MAX_REFUSED:
            raise EngineError(
                "the gradients are not finite: lower learning_rate, or check the data and model"
            )
        if logs:
            extra = {"epoch": (step + 1) / per_epoch, "learning_rate": updater.current_rate}
            workspace.events.metrics(step + 1, metrics | extra)
            workspace.events.progress("train", step + 1, steps)
        stops = workspace.should_stop()
        if last or stops or (step + 1) % config.checkpoint_every_steps == 0:
            checkpoints.save(step + 1, prefixed(name, parameters), {"updater": updater.state_dict()})
        if stops:
            raise StopRequested
    return steps
