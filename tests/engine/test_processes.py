"""Several processes that train together do what one alone would do, stop together, and go on after a kill."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from tests.engine.conftest import ask_to_stop_after, scorer_of, write_rows
from tests.engine.test_training import PPO, REWARD, taste
from training.engine import checkpoints, scoring
from training.engine.__main__ import main
from training.engine.batches import Tokens, make_batch
from training.engine.config import Reward
from training.engine.fsdp import Spread
from training.engine.networks import trained_parameters
from training.engine.processes import meet
from training.engine.updates import Updater

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {name: value for name, value in PPO.items() if name != "critic_warmup_steps"} | {
    "samples_per_prompt": 4
}
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node=2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2"],
}


@pytest.fixture(autouse=True)
def no_recorded_states(monkeypatch):
    """One process reuses what it recorded while sampling, several do not; here both read every token anew, so
    that what is compared differs by the processes alone."""
    monkeypatch.setattr(scoring, "STATES_BYTES", 0)


@pytest.fixture
def settings(llama, tmp_path, prompts):
    """Settings of a short run by the name of a case."""
    learned = {"model": llama, "prompts": prompts}
    # 41 judgments in batches of 8: of the last batch one process has nothing.
    train = {"model": llama, "train_data": write_rows(tmp_path / "train.jsonl", taste(41, "abcd"))}
    judged = train | {"eval_data": write_rows(tmp_path / "eval.jsonl", taste(24, "efgh"))}
    rows = [{"prompt": text, "completion": f"{text} a"} for text in "abcdefgh"] * 6
    demonstrations = {"model": llama, "train_data": write_rows(tmp_path / "demos.jsonl", rows)}
    written = {"epochs": 4, "batch_size": 4, "log_every_steps": 1}
    return {
        "sft": demonstrations | written,
        "sft packed": demonstrations | written | {"packing": True},
        "reward": judged | REWARD | {"log_every_steps": 1},
        "reward ensemble": judged | REWARD | {"members": 4, "lora_rank": 4},
        "dpo": judged | {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "log_every_steps": 1},
        "ppo": learned | PPO,
        "ppo adapters": learned | PPO | {"lora_rank": 4},
        "grpo": learned | GROUPS,
        "rloo": learned | GROUPS,
    }


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def fork_two(*works):
    """Fork two processes that know of each other; each ends with what its function returns. Returns their ids."""
    port, children = free_port(), []
    for rank, work in enumerate(works):
        child = os.fork()
        if not child:
            code = 1
            try:
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
                os.environ["MASTER_PORT"] = str(port)
                code = work()
            finally:
                os._exit(code)
        children.append(child)
    return children


def start_two(engine, method, out, *configs):
    """Fork two processes of one run; returns their ids."""
    return fork_two(
        *(lambda config=config: main([method, config, str(engine.folder / out)]) for config in configs)
    )


def exit_codes(children):
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run_two(engine, method, out, **values):
    config = engine.config(**values)
    return exit_codes(start_two(engine, method, out, config, config))


def weights(engine, out):
    return load_file(engine.folder / out / "model" / "model.safetensors")


def assert_alike(one, other, place=""):
    """Two results, but for rounding; seconds and tokens per second are the machine's."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            if not name.endswith(("seconds", "per_second")):
                assert_alike(one[name], other[name], f"{place}/{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_alike(*pair, f"{place}/{number}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=2e-3, abs=2e-4), place
    else:
        assert one == other, place


@pytest.mark.parametrize(
    "case",
    ["sft", "sft packed", "reward", "reward ensemble", "dpo", "ppo", "ppo adapters", "grpo", "rloo"],
)
def test_two_processes_learn_what_one_learns(engine, settings, llama, case):
    method, values = case.split()[0], settings[case]
    assert engine.run(method, "one", **values) == 0
    assert run_two(engine, method, "two", **values) == [0, 0]
    first, one, two = (
        load_file(Path(llama) / "model.safetensors"),
        weights(engine, "one"),
        weights(engine, "two"),
    )
    torch.testing.assert_close(two, one, atol=2e-5, rtol=0)
    shared = first.keys() & one.keys()
    assert max(float((one[name] - first[name]).abs().max()) for name in shared) > 2e-3
    assert_alike(engine.result("one"), engine.result("two"))
    logs = [
        [(event["step"], event["metrics"]) for event in engine.events(out, "metrics")]
        for out in ("one", "two")
    ]
    assert logs[0]
    assert_alike(*(json.loads(json.dumps(log)) for log in logs))  # every step once, with the same figures


def test_two_processes_sample_score_and_judge_as_one(engine, settings, llama, other_llama, prompts):
    assert engine.run("reward", "judge", **settings["reward"]) == 0
    judge = str(engine.folder / "judge" / "model")
    sampling = {"model": llama, "prompts": prompts, "samples_per_prompt": 3}
    runs = {
        "generate": sampling,
        "evaluate": sampling | {"baseline_model": other_llama, "judge_model": judge},
        "score": {"model": judge, "completions": str(engine.folder / "one generate" / "completions.jsonl")},
    }
    for method, values in runs.items():
        assert engine.run(method, f"one {method}", **values) == 0
        assert run_two(engine, method, f"two {method}", **values) == [0, 0]
        assert_alike(engine.result(f"one {method}"), engine.result(f"two {method}"))
        name = "scores.jsonl" if method == "score" else "completions.jsonl"
        files = [engine.folder / f"{who} {method}" / name for who in ("one", "two")]
        assert_alike(*([json.loads(line) for line in file.read_text().splitlines()] for file in files))


def test_asked_to_stop_one_process_stops_all_and_one_alone_goes_on(engine, settings):
    # Not many steps: in the long run rounding turns a token over, and from there on two runs are two.
    values = settings["ppo"] | {"steps": 12, "checkpoint_every_steps": 1000}
    assert engine.run("ppo", "whole", **values) == 0
    command = ["ppo", engine.config(**values), str(engine.folder / "stopped")]

    def asked():
        ask_to_stop_after(2)
        return main(command)

    assert exit_codes(fork_two(lambda: main(command), asked)) == [143, 143]  # the other one writes
    saved = [folder.name for folder in (engine.folder / "stopped" / "checkpoints").iterdir()]
    assert len(saved) == 1 and "step-00000002" <= saved[0] < "step-00000012"
    assert engine.run("ppo", "stopped", **values) == 0
    torch.testing.assert_close(weights(engine, "stopped"), weights(engine, "whole"), atol=2e-5, rtol=0)


@pytest.mark.slow
def test_a_killed_process_takes_the_others_along_and_another_launcher_goes_on(engine, settings):
    values = settings["grpo"] | {"steps": 8, "checkpoint_every_steps": 1}
    assert run_two(engine, "grpo", "whole", **values) == [0, 0]
    out = engine.folder / "killed"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = ["-m", "training.engine", "grpo", engine.config(**values), str(out)]
    torchrun, accelerate = ([sys.executable, "-m", *words, *run] for words in LAUNCHERS.values())
    process = subprocess.Popen(torchrun, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    engine.wait_for_step("killed", 3, seconds=120)
    workers = [
        child for child in psutil.Process(process.pid).children() if "training.engine" in child.cmdline()
    ]
    assert len(workers) == 2
    workers[1].kill()
    assert process.wait(60) != 0
    _, alive = psutil.wait_procs(workers, timeout=40)
    assert not alive and not (out / "result.json").exists()
    accelerate.insert(4, f"--main_process_port={free_port()}")
    assert subprocess.run(accelerate, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL).returncode == 0
    assert engine.weights("killed") == engine.weights("whole")


def test_a_guard_stops_all_processes_with_the_same_policy(engine, settings):
    values = settings["ppo"] | {"kl_budget_nats": 1.0}
    assert engine.run("ppo", "one", **values) == 3
    assert run_two(engine, "ppo", "two", **values) == [3, 3]
    assert_alike(engine.result("one"), engine.result("two"))
    torch.testing.assert_close(weights(engine, "two"), weights(engine, "one"), atol=2e-5, rtol=0)


def test_processes_whose_weights_have_parted_end_instead_of_going_on(engine, settings, capfd, monkeypatch):
    config = engine.config(**settings["reward"] | {"checkpoint_every_steps": 2})
    alone = Updater.step

    def work(stray):
        def step(updater):
            norm = alone(updater)
            with torch.no_grad():
                updater.parameters[0].add_(stray)
            return norm

        monkeypatch.setattr(Updater, "step", step)
        return main(["reward", config, str(engine.folder / "out")])

    began = time.monotonic()
    assert exit_codes(fork_two(lambda: work(0.0), lambda: work(1e-6))) == [2, 2]
    assert time.monotonic() - began < 60
    assert "the processes no longer hold the same weights after 2 steps" in capfd.readouterr().err
    assert not list((engine.folder / "out" / "checkpoints").glob("step-*"))


def test_processes_that_were_told_different_things_do_not_begin(engine, settings, tmp_path, capfd):
    other = write_rows(tmp_path / "other.jsonl", taste(41, "efgh"))
    for change, name in (({"seed": 2}, "config"), ({"train_data": other}, "config, train_data")):
        configs = []
        for number, changed in enumerate(({}, change)):
            path = Path(engine.config(**settings["reward"] | changed))
            configs.append(str(path.rename(path.with_name(f"told-{number}.json"))))
        assert exit_codes(start_two(engine, "reward", f"out {name}", *configs)) == [2, 2]
        assert f"{name}: not the same for all processes" in capfd.readouterr().err
        assert not (engine.folder / f"out {name}" / "events.jsonl").exists()


def test_no_process_leaves_before_the_first_has_saved(engine, settings, monkeypatch):
    config = engine.config(**settings["ppo"] | {"steps": 40, "checkpoint_every_steps": 1000})
    quick = checkpoints.save_file

    def slow(*arguments):
        time.sleep(1.5)
        quick(*arguments)

    monkeypatch.setattr(checkpoints, "save_file", slow)
    children = start_two(engine, "ppo", "out", config, config)
    engine.wait_for_step("out", 2)
    os.kill(children[1], signal.SIGTERM)
    assert exit_codes(children[1:]) == [143]
    assert list((engine.folder / "out" / "checkpoints").glob("step-*"))
    assert exit_codes(children[:1]) == [143]


def test_all_processes_go_on_from_the_checkpoint_that_the_first_one_found(
    engine, settings, monkeypatch, capfd
):
    values = settings["reward"] | {"checkpoint_every_steps": 4}
    assert run_two(engine, "reward", "out", **values) == [0, 0]
    (engine.folder / "out" / "result.json").unlink()
    config = engine.config(**values)
    whole = checkpoints._read

    def work(broken):
        def read(folder):
            if broken and folder.name == "step-00000024":
                raise OSError("stale file handle")
            return whole(folder)

        monkeypatch.setattr(checkpoints, "_read", read)
        return main(["reward", config, str(engine.folder / "out")])

    seen = len(engine.events("out", "metrics"))
    # The first one cannot read the newest: all go on from the one before.
    assert exit_codes(fork_two(lambda: work(True), lambda: work(False))) == [0, 0]
    assert [event["step"] for event in engine.events("out", "metrics")[seen:]] == [21, 22, 23, 24]
    # Another one cannot: nobody goes on.
    (engine.folder / "out" / "result.json").unlink()
    assert exit_codes(fork_two(lambda: work(False), lambda: work(True)))[1] == 2
    assert "one process could read it, and another could not (stale file handle)" in capfd.readouterr().err
    assert not (engine.folder / "out" / "result.json").exists()


def test_sampling_by_two_processes_stops_on_request(engine, settings, llama, tmp_path):
    prompts = write_rows(tmp_path / "many.jsonl", [{"prompt": "a b"}] * 64 * 200)
    config = engine.config(model=llama, prompts=prompts)
    children = start_two(engine, "generate", "out", config, config)
    deadline = time.monotonic() + 120
    while not (engine.folder / "out" / "events.jsonl").exists() or not engine.events("out", "progress"):
        assert time.monotonic() < deadline, "they did not begin"
        time.sleep(0.01)
    os.kill(children[0], signal.SIGTERM)
    assert exit_codes(children) == [143, 143]
    assert not (engine.folder / "out" / "completions.jsonl").exists()


def test_bad_input_ends_all_processes(engine, settings, capfd):
    values = settings["reward"] | {"train_data": str(engine.folder / "nowhere.jsonl")}
    assert run_two(engine, "reward", "out", **values) == [2, 2]
    assert "nowhere.jsonl" in capfd.readouterr().err


def test_a_reward_term_is_computed_once_for_each_completion(engine, settings, tmp_path):
    seen = tmp_path / "seen.txt"
    term = {"kind": "callable", "path": "tests.engine.toys:share_of_a_written_down", "weight": 1.0}
    os.environ["SEEN"] = str(seen)
    try:
        assert run_two(engine, "rloo", "two", **settings["rloo"] | {"rewards": [term], "steps": 1}) == [0, 0]
    finally:
        del os.environ["SEEN"]
    processes = [line.split()[0] for line in seen.read_text().splitlines()]
    # One batch of 32, and the larger rollout at the end.
    assert len(processes) == 32 + 256 and len(set(processes)) == 2
    assert processes.count(processes[0]) == len(processes) / 2


def test_spread_over_two_processes_a_reward_model_learns_what_it_learns_in_one(engine, settings):
    # So few tokens in a pass that one process has more passes than the other.
    values = settings["reward"] | {"micro_batch_tokens": 12, "members": 2, "checkpoint_every_steps": 1}
    assert engine.run("reward", "one", **values) == 0
    config = engine.config(**values, fsdp=True)
    children = start_two(engine, "reward", "two", config, config)
    engine.wait_for_step("two", 3)
    for child in children:
        os.kill(child, signal.SIGKILL)
    assert exit_codes(children) == [-signal.SIGKILL] * 2
    steps = [folder.name for folder in (engine.folder / "two" / "checkpoints").glob("step-*")]
    assert steps and max(steps) < "step-00000024"
    assert run_two(engine, "reward", "two", **values, fsdp=True) == [0, 0]
    torch.testing.assert_close(weights(engine, "two"), weights(engine, "one"), atol=2e-5, rtol=0)
    assert_alike(engine.result("one"), engine.result("two"))


def test_spread_over_two_processes_each_keeps_half_of_weights_gradients_and_moments(llama, tmp_path):
    def work():
        processes = meet("cpu")
        scorer = scorer_of(llama)
        whole_size = sum(one.numel() for one in scorer.model.base_model.parameters())
        spread = Spread(scorer.model, processes)
        weights = trained_parameters(scorer.model)
        updater = Updater(weights, 1e-3, 10, Reward(model=llama, train_data="-"), processes)
        for _ in range(2):
            scorer.scores(make_batch([Tokens([4], [5, 0])], torch.device("cpu"))).sum().backward()
        kept = [one for one in weights.values() if isinstance(one, DTensor)]
        sizes = [
            sum(one.to_local().numel() for one in kept),
            sum(one.grad.to_local().numel() for one in kept),
        ]
        updater.step()
        states = updater._adam.state.values()
        sizes.append(
            sum(one["exp_avg"].to_local().numel() for one in states if isinstance(one["exp_avg"], DTensor))
        )
        whole = {name: tuple(one.shape) for name, one in spread.whole().named_parameters()}
        (tmp_path / f"{processes.rank}.json").write_text(json.dumps([whole_size, sizes, len(whole)]))
        return 0

    assert exit_codes(fork_two(work, work)) == [0, 0]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    size, _, count = found[0]
    assert count == len(trained_parameters(scorer_of(llama).model))
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one + other == size and 0.4 * size < one < 0.6 * size


def test_there_is_nothing_to_spread_over_in_one_process(engine, settings, capsys):
    assert engine.run("reward", "out", **settings["reward"], fsdp=True) == 2
    assert "fsdp: needs several processes; start them with torchrun" in capsys.readouterr().err
    assert engine.run("reward", "out", **settings["reward"], fsdp=True, lora_rank=4) == 2
    assert "fsdp: spreads weights that are trained" in capsys.readouterr().err
