"""Killed in any phase, a run goes on from its last whole checkpoint and ends with the weights of one that never was."""

import pytest

from tests.engine.kills import Point, about, assert_same_end, kill_at, short_run

# Runs save after every second step. By phase: the point, and the step that the next run logs first, or 0 where
# none is left to take.
SAVING = {
    "weights half written": (Point("training.engine.checkpoints:save_file", 4, when="torn"), 3),
    "optimiser half written": (Point("torch:save", 4, when="torn"), 3),
    "no manifest": (Point("training.engine.checkpoints:write_atomically", 4), 3),
    "not renamed": (Point("os:replace", 4, which=about("step-00000004")), 3),
    "renamed": (Point("os:replace", 6, when="after", which=about("step-00000006")), 0),
    "old one not removed": (Point("shutil:rmtree", 6, which=about("step-00000002")), 0),
}
UPDATE = {
    "in a backward pass": (Point("torch:Tensor.backward", 5), 5),
    "after an optimiser step": (Point("training.engine.updates:Updater.step", 5, when="after"), 5),
}
ROLLOUT = {
    "while models load": (Point("training.engine.online:load_policy", 0, call=2), 1),
    "while sampling": (Point("training.engine.generation:_draw", 5, call=5), 5),
    "sampled": (Point("training.engine.online:sample", 5, when="after"), 5),
    "half looked at": (Point("training.engine.scoring:compare_policies", 5, call=2), 5),
}
FINAL = {
    "final measurement": (Point("training.engine.online:_measure_final", 6), 0),
    "in the final measurement": (Point("training.engine.generation:_draw", 6, call=3), 0),
    "measured": (Point("training.engine.online:_measure_final", 6, when="after"), 0),
    "model saved, marks not": (Point("training.engine.online_state:OnlineState.write_marked", 6), 0),
}
NORMALISING = {
    "normalising": (Point("training.engine.reward_model:_normalize", 6), 0),
    "while sampling to normalise": (Point("training.engine.generation:_draw", 6, call=3), 0),
    "normalised": (Point("training.engine.reward_model:_normalize", 6, when="after"), 0),
}
WRITING_THE_MODEL = {
    "model half written": (Point("transformers:PreTrainedModel.save_pretrained", 6, when="after"), 0),
    "model not renamed": (Point("os:replace", 6, which=about("model")), 0),
    "result not written": (
        Point("training.engine.workspace:write_atomically", 6, which=about("result.json")),
        0,
    ),
}
REFERENCE = {
    "reference half heard": (Point("training.engine.reference_pairs:token_logprobs", 0, call=2), 1),
}
EVERY_PHASE = ROLLOUT | UPDATE | SAVING | FINAL | WRITING_THE_MODEL
PHASES = {
    "ppo": list(EVERY_PHASE),
    # The loop is ppo's: one point of each phase.
    "grpo": ["sampled", "in a backward pass", "not renamed", "in the final measurement", "model not renamed"],
    "rloo": ["after an optimiser step"],
    "reward": list(UPDATE | SAVING | NORMALISING | WRITING_THE_MODEL),
    "dpo": ["reference half heard"],
    "sft": ["model half written"],
}
POINTS = EVERY_PHASE | NORMALISING | REFERENCE


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory):
    """The folder of an uninterrupted run of each method, made where it is first asked for."""
    return tmp_path_factory.mktemp("whole")


@pytest.mark.parametrize(
    ("method", "phase"), [(method, phase) for method, phases in PHASES.items() for phase in phases]
)
def test_killed_in_this_phase_it_ends_as_if_it_never_was(engine, llama, whole_runs, method, phase):
    point, first = POINTS[phase]
    settings = short_run(method, llama, whole_runs)
    whole = whole_runs / method
    if not whole.exists():
        assert engine.run(method, whole, **settings) == 0
    kill_at(engine, point, method, settings, "killed")
    before = len(engine.events("killed", "metrics"))
    assert engine.run(method, "killed", **settings) == 0
    steps = [event["step"] for event in engine.events("killed", "metrics")[before:]]
    # Where it went on is part of the claim: from the start every run ends alike.
    assert (steps[0] if steps else 0) == first
    assert_same_end(engine, "killed", whole)
    left = [path.name for path in (engine.folder / "killed").rglob("*") if path.name.endswith(".tmp")]
    assert not left
