"""Runs that are killed, stopped, or find damage end with the weights of a run that never was."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import end
from tests.engine.kills import METHODS, assert_same_end, kill_after_steps, short_run
from tests.engine.test_training import PPO
from training.engine.checkpoints import Checkpoints
from training.engine.config import Generate
from training.engine.events import EventLog
from training.engine.networks import epoch_order, generator
from training.engine.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=METHODS)
def case(request, llama, tmp_path):
    """A method with settings of a run of a second or two."""
    epochs = 2 if request.param in ("ppo", "grpo", "rloo") else 6
    return request.param, short_run(request.param, llama, tmp_path, epochs)


def test_killed_at_any_time_a_run_ends_with_the_same_weights(engine, case):
    method, settings = case
    assert engine.run(method, "whole", **settings) == 0
    kill_after_steps(engine, method, settings, "killed", (1, 3, 5))
    assert engine.run(method, "killed", **settings) == 0
    assert_same_end(engine, "killed", "whole")


def test_asked_to_stop_a_run_saves_and_continues_from_there(engine, case):
    method, settings = case
    settings = settings | {"checkpoint_every_steps": 1000}  # Only the stop itself can have saved anything.
    assert engine.run(method, "whole", **settings) == 0
    assert engine.stop(method, "stopped", 2, **settings) == 143
    assert not (engine.folder / "stopped" / "result.json").exists()
    saved = [folder.name for folder in (engine.folder / "stopped" / "checkpoints").iterdir()]
    assert len(saved) == 1 and saved[0] >= "step-00000002"
    assert engine.run(method, "stopped", **settings) == 0
    assert_same_end(engine, "stopped", "whole")


def test_the_program_itself_stops_with_143_and_continues(engine, llama, prompts):
    settings = PPO | {"model": llama, "prompts": prompts, "steps": 300}
    command = [
        sys.executable,
        "-m",
        "training.engine",
        "ppo",
        engine.config(**settings),
        str(engine.folder / "out"),
    ]
    process = subprocess.Popen(command, cwd=ROOT)
    engine.wait_for_step("out", 3, seconds=120)
    process.terminate()
    assert process.wait(240) == 143
    steps = [event["step"] for event in engine.events("out", "metrics")]
    again = engine.start("ppo", "out", **settings)
    engine.wait_for_step("out", max(steps) + 1)
    assert end(again, signal.SIGTERM) == 143
    steps = [event["step"] for event in engine.events("out", "metrics")]
    assert steps == list(range(1, max(steps) + 1))


def test_a_torn_checkpoint_is_skipped_for_the_one_before(engine, case):
    method, settings = case
    assert engine.run(method, "whole", **settings) == 0
    for path in ("result.json", "model"):
        target = engine.folder / "whole" / path
        target.rename(engine.folder / f"first-{path}")
    newest = sorted((engine.folder / "whole" / "checkpoints").iterdir())[-1]
    torn = newest / "tensors.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    before = [event["step"] for event in engine.events("whole", "metrics")]
    assert engine.run(method, "whole", **settings) == 0
    # Two steps back and not from the start, where every run ends alike.
    assert [event["step"] for event in engine.events("whole", "metrics")] == before + before[-2:]
    warnings = [event["text"] for event in engine.events("whole", "message") if event["level"] == "warning"]
    assert (
        f"{newest.name} is damaged and was skipped: tensors.safetensors is not what was written" in warnings
    )
    first = (engine.folder / "first-model" / "model.safetensors").read_bytes()
    assert engine.weights("whole") == first


def test_resumed_right_before_a_guard_stops_it_a_run_still_knows_its_last_good_policy(engine, llama, prompts):
    settings = PPO | {"model": llama, "prompts": prompts, "kl_budget_nats": 1.0, "checkpoint_every_steps": 1}
    assert engine.run("ppo", "out", **settings) == 3
    weights, result = engine.weights("out"), engine.result("out")
    (engine.folder / "out" / "result.json").unlink()
    (engine.folder / "out" / "model" / "model.safetensors").unlink()
    assert engine.run("ppo", "out", **settings) == 3
    assert engine.weights("out") == weights
    assert engine.result("out") == result


def test_a_finished_run_is_not_run_again(engine, llama, prompts):
    settings = {"model": llama, "prompts": prompts}
    assert engine.run("generate", "out", **settings) == 0
    written = (engine.folder / "out/completions.jsonl").stat().st_mtime_ns
    assert engine.run("generate", "out", **settings) == 0
    assert (engine.folder / "out/completions.jsonl").stat().st_mtime_ns == written
    assert len(engine.events("out", "result")) == 1


def test_another_config_may_not_continue_a_run(engine, llama, prompts, capsys):
    assert engine.run("generate", "out", model=llama, prompts=prompts) == 0
    assert engine.run("generate", "out", model=llama, prompts=prompts, seed=2) == 2
    assert "holds a run with another config (seed)" in capsys.readouterr().err


def test_a_run_that_began_before_a_setting_was_there_goes_on(engine, llama, prompts):
    settings = PPO | {"model": llama, "prompts": prompts, "steps": 2}
    assert engine.run("ppo", "out", **settings) == 0
    path = engine.folder / "out" / "config.json"
    older = json.loads(path.read_text())
    del older["replay_share"], older["held_out_every_steps"], older["seed"]
    path.write_text(json.dumps(older))
    assert engine.run("ppo", "out", **settings) == 0
    assert engine.run("ppo", "out", **settings | {"seed": 1}) == 2


def test_two_engines_never_write_one_folder(engine, llama, tmp_path):
    config = Generate(model=llama, prompts="-")
    first = Workspace(tmp_path / "out")
    first.open(config)
    with pytest.raises(Exception, match="another engine is writing this folder"):
        Workspace(tmp_path / "out").open(config, lock_seconds=0.3)
    first.close()
    second = Workspace(tmp_path / "out")
    second.open(config, lock_seconds=0.3)
    second.close()


def test_a_checkpoint_comes_back_whole_and_old_ones_go(tmp_path):
    events = EventLog(tmp_path / "events.jsonl")
    checkpoints = Checkpoints(tmp_path, events)
    assert checkpoints.load() is None
    for step in (1, 2, 3):
        checkpoints.save(
            step, {"w": torch.tensor([float(step)])}, {"adam": {"t": torch.tensor(step)}, "x": [1.5]}
        )
    loaded = checkpoints.load()
    assert loaded.step == 3 and loaded.tensors["w"].tolist() == [3.0]
    assert loaded.state["x"] == [1.5] and int(loaded.state["adam"]["t"]) == 3
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000002", "step-00000003"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize(
    "damage", [lambda path: os.truncate(path, 9), lambda path: path.write_bytes(b""), Path.unlink, flip]
)
def test_whatever_is_damaged_the_checkpoint_before_is_used(tmp_path, name, damage):
    checkpoints = Checkpoints(tmp_path, EventLog(tmp_path / "events.jsonl"))
    for step in (1, 2):
        checkpoints.save(step, {"w": torch.full((64,), float(step))}, {"x": [step]})
    damage(checkpoints.folder / "step-00000002" / name)
    loaded = checkpoints.load()
    assert loaded.step == 1 and loaded.tensors["w"].tolist() == [1.0] * 64 and loaded.state == {"x": [1]}
    assert "step-00000002 is damaged and was skipped" in (tmp_path / "events.jsonl").read_text()
    damage(checkpoints.folder / "step-00000001" / name)
    assert checkpoints.load() is None


def test_half_a_line_of_events_is_dropped_before_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.message("info", "whole")
    log.close()
    with open(path, "a") as file:
        file.write('{"time": 1, "ki')
    log = EventLog(path)
    log.metrics(3, {"loss": 1.0, "broken": float("nan")})
    log.close()
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first["text"] == "whole" and second["metrics"] == {"loss": 1.0}


def test_random_numbers_depend_on_seed_purpose_and_step_alone():
    def draw(*key):
        return torch.rand(3, generator=generator(*key)).tolist()

    assert draw(1, "sampling", 5) == draw(1, "sampling", 5)
    assert len({tuple(draw(*key)) for key in [(1, "sampling", 5), (1, "sampling", 6), (2, "sampling", 5),
                                              (1, "order", 5)]}) == 4  # fmt: skip
    assert sorted(epoch_order(3, 2, 10)) == list(range(10)) != epoch_order(3, 2, 10)
