"""Completions of a server, asked over real HTTP: what is asked, with what patience, and what becomes of it."""

import json
import os
import signal
import socket
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from types import SimpleNamespace

import httpx2
import pytest

from tests.engine.chat_server import ChatServer, completion, echo
from tests.engine.conftest import write_rows
from training.engine import served
from training.engine.config import EngineError, Generate, server_url
from training.engine.processes import Processes

KEY = "sk-secret/of-the-test"
ASK = {"model": "large", "server_backoff_seconds": 0.01, "server_retries": 3, "server_concurrency": 4}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == served.KEY_VARIABLE:
            monkeypatch.delenv(name)


@pytest.fixture
def chat():
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture
def ask(engine, chat, prompts, capsys):
    """Run `generate` with the server; returns the exit code and what was said on stderr."""

    def ask(out="out", **settings):
        settings = {"prompts": prompts, "server": chat.url} | ASK | settings
        return engine.run("generate", out, **settings), capsys.readouterr().err

    return ask


def rows_of(engine, out="out"):
    return [json.loads(line) for line in (engine.folder / out / "completions.jsonl").read_text().splitlines()]


def in_turn(*answers):
    """Give these answers in turn, and the last one from then on."""
    number = count()
    return lambda body: answers[min(next(number), len(answers) - 1)]


# What is asked, and what becomes of it


def test_a_servers_completions_are_rows_like_those_sampled_here(engine, chat, ask, llama, tmp_path):
    prompts = write_rows(
        tmp_path / "asked.jsonl",
        [{"id": "x", "prompt": "a", "answer": 4}, {"prompt": [{"role": "system", "content": "b"}, {"role": "user", "content": "c"}]}],
    )  # fmt: skip
    common = {"prompts": prompts, "samples_per_prompt": 3, "temperatures": [0.5, 1.5]}
    chat.answer = lambda body: completion(
        f"{body['temperature']} {body['seed']}", "length" if body["temperature"] == 0.5 else "stop"
    )
    assert ask(**common)[0] == 0
    assert engine.run("generate", "local", model=llama, **common) == 0
    rows, local = rows_of(engine), rows_of(engine, "local")
    for ours, theirs in zip(rows, local, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("id", "prompt", "answer", "temperature", "sample"):
            assert ours[name] == theirs[name]
    assert [row["completion"].split()[0] for row in rows] == ["0.5", "1.5", "0.5"] * 2
    assert [row["ended"] for row in rows] == [False, True, False] * 2
    assert {(row["tokens"], row["logprob"]) for row in rows} == {(3, None)}
    result = engine.result("out")
    assert result.keys() == engine.result("local").keys()
    assert (result["prompts"], result["completions"], result["length_mean"]) == (2, 6, 3.0)
    assert not (engine.folder / "out" / "answers.jsonl").exists()


def test_each_completion_is_a_request_of_its_own_with_a_seed_of_its_own(chat, ask, prompts):
    assert ask(samples_per_prompt=2, temperatures=[0.7, 0.9], top_p=0.8)[0] == 0
    asked = sorted(chat.bodies, key=lambda body: (body["messages"][0]["content"], body["temperature"]))
    assert len(asked) == len({body["seed"] for body in asked}) == 16
    assert {path for _, path, _, _ in chat.asked} == {"/v1/chat/completions"}
    # What is packed could be endless once it is unpacked.
    assert {headers["Accept-Encoding"] for _, _, headers, _ in chat.asked} == {"identity"}
    seed = asked[0].pop("seed")
    assert isinstance(seed, int) and 0 <= seed < 2**31
    assert asked[0] == {
        "model": "large", "messages": [{"role": "user", "content": "a"}], "temperature": 0.7, "top_p": 0.8, "max_tokens": 8,
    }  # fmt: skip


def test_what_not_every_server_knows_is_sent_where_it_is_set(chat, ask):
    assert ask(top_k=5, server_model_name="org/larger", server_length_name="max_completion_tokens")[0] == 0
    for body in chat.bodies:
        assert (body["top_k"], body["model"], body["max_completion_tokens"]) == (5, "org/larger", 8)
        assert "max_tokens" not in body


def test_the_same_run_asks_the_same_again_and_another_seed_something_else(chat, ask):
    for out, settings in (
        ("one", {"seed": 4}),
        ("two", {"seed": 4, "server_concurrency": 1}),
        ("three", {"seed": 5}),
    ):
        assert ask(out, **settings)[0] == 0
    seeds = [body["seed"] for body in chat.bodies]
    assert set(seeds[:16]) == set(seeds[16:32])
    assert not set(seeds[:16]) & set(seeds[32:])


def test_more_choices_than_one_count_once_and_tokens_that_were_not_counted_have_no_mean(engine, chat, ask):
    twice = completion("first") | {
        "choices": completion("first")["choices"] + completion("second")["choices"]
    }
    chat.answer = in_turn(twice, completion(tokens=None), completion(tokens=-1), completion(tokens=7))
    assert ask(samples_per_prompt=2, server_concurrency=1)[0] == 0
    rows = rows_of(engine)
    assert [(row["completion"], row["tokens"]) for row in rows[:4]] == [
        ("first", 0), ("fine", 0), ("fine", 0), ("fine", 7),
    ]  # fmt: skip
    assert len(rows) == 16 and engine.result("out")["length_mean"] is None


# Patience


def test_no_more_requests_are_under_way_than_may_be(engine, chat, ask):
    def slow(body):
        deadline = time.monotonic() + 10
        while chat.most < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.03)  # for a fourth to show itself
        return echo(body)

    chat.answer = slow
    assert ask(samples_per_prompt=4, server_concurrency=3)[0] == 0
    assert (len(chat.asked), chat.most) == (32, 3)
    progress = engine.events("out", "progress")
    assert [(event["done"], event["total"]) for event in progress][-1] == (32, 32)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
def test_what_may_pass_is_asked_again(engine, chat, ask, status):
    chat.answer = in_turn((status, {}, b"busy"), completion())
    assert ask(server_concurrency=1)[0] == 0
    assert chat.bodies[0] == chat.bodies[1] and len(chat.asked) == 17
    warning = engine.events("out", "message")[0]["text"]
    assert f"repeated because it answered {status}: busy" in warning


def test_a_server_is_left_alone_for_as_long_as_it_asks(chat, ask):
    chat.answer = in_turn((429, {"Retry-After": "1"}, b""), completion())
    assert ask(server_concurrency=1)[0] == 0
    assert 1.0 <= chat.asked[1][0] - chat.asked[0][0] < 10


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        ("1e9", served.LONGEST_WAIT_SECONDS),
        ("-3", 0),
        ("nan", 0),
        ("inf", 0),
        ("soon", 0),
        ("", 0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0),
    ],
)
def test_a_time_to_wait_is_seconds_or_a_date_and_has_an_end(said, seconds):
    asked_for = served._wait_asked_for(httpx2.Response(429, headers={"Retry-After": said}))
    assert asked_for == seconds


@pytest.mark.parametrize(("away", "least", "most"), [(300, 270, 300), (-300, 0, 0)])
def test_a_date_to_wait_for_is_seconds_from_now(away, least, most):
    said = format_datetime(datetime.now(UTC) + timedelta(seconds=away), usegmt=True)
    asked_for = served._wait_asked_for(httpx2.Response(429, headers={"Retry-After": said}))
    assert least <= asked_for <= most


def test_pauses_double_and_are_not_the_same_for_all(chat, ask, monkeypatch):
    pauses, sleep = [], served.asyncio.sleep

    async def note(seconds):
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(served.asyncio, "sleep", note)
    chat.answer = in_turn((503, {}, b""))
    assert ask(server_concurrency=1, server_retries=8, server_backoff_seconds=1.0)[0] == 2
    longest = [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert any(pause != most for pause, most in zip(pauses, longest, strict=True))


def test_a_request_that_takes_too_long_is_given_up_and_made_again(chat, ask):
    number = count()

    def first_hangs(body):
        if not next(number):
            chat.over.wait(100)
        return completion()

    chat.answer = first_hangs
    assert ask(server_timeout_seconds=1.0, server_concurrency=1)[0] == 0
    assert chat.bodies[0] == chat.bodies[1]
    # Its second begins before the server has the request.
    assert 0.5 <= chat.asked[1][0] - chat.asked[0][0] < 10


def test_an_answer_that_drips_is_too_slow_as_a_whole(chat, ask, monkeypatch):
    """Each byte comes in time, the answer does not."""

    def drip(handler):
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not chat.over.wait(0.02):
            handler.wfile.write(b" ")

    monkeypatch.setattr(chat, "take", drip)
    code, said = ask(server_timeout_seconds=0.2, server_retries=0)
    assert code == 2 and "gave no answer in 1 attempts, at last because it took more than 0.2 seconds" in said


def test_an_answer_that_is_cut_off_is_asked_for_again(chat, ask):
    whole = json.dumps(completion()).encode()
    chat.answer = in_turn((200, {"Content-Length": str(len(whole))}, whole[:40]), completion())
    assert ask(server_concurrency=1)[0] == 0
    assert len(chat.asked) == 17


def test_a_server_that_is_not_there_is_named(ask):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    code, said = ask(server=url)
    assert code == 2
    assert f"{url} gave no answer in 4 attempts, at last because the connection failed (ConnectError" in said


# What is refused


@pytest.mark.parametrize("status", [307, 400, 401, 403, 404, 413, 422])
def test_what_will_not_pass_is_asked_once_and_said_in_the_servers_own_words(
    engine, chat, ask, prompts, status, monkeypatch
):
    monkeypatch.setenv(served.KEY_VARIABLE, KEY)
    said = {"error": {"message": f"Not with\nthis {KEY}\x1b[31m, {'x' * 9000}", "type": "none"}}
    chat.answer = in_turn((status, {"Location": "http://127.0.0.1:9/"}, said))
    code, error = ask(server_concurrency=1)
    assert code == 2 and len(chat.asked) == 1
    assert f"answered {status}: Not with this (the key) [31m, xxx" in error
    assert len(error) < 700 and "\x1b" not in error and KEY not in error
    place = "server: " if status in (401, 403, 404) else f"{prompts} line 1: "
    assert error.startswith(f"{place}{chat.url} ")
    assert (f"with the key of {served.KEY_VARIABLE}" in error) == (status in (401, 403))
    assert engine.events("out", "message")[-1]["text"] == error.rstrip("\n")


def test_a_server_that_wants_a_key_and_got_none_is_said_to_have_got_none(chat, ask):
    chat.answer = in_turn((401, {}, {"message": "No key"}))
    assert (
        f"without a key, since there is none in {served.KEY_VARIABLE}, and answered 401: No key" in ask()[1]
    )


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "said"}},
        {"error": "said", "error_type": "x"},
        {"object": "error", "message": "said"},
        {"detail": "said"},
        b"said",
    ],
)
def test_the_sentence_is_found_where_servers_put_it(chat, ask, body):
    chat.answer = in_turn((400, {}, body))
    assert ask()[1].endswith("answered 400: said\n")


MALFORMED = {
    "no JSON": (b"<html>busy</html>", "Invalid JSON", "<html>busy</html>"),
    "nothing": (b"", "Invalid JSON", ""),
    "no object": ([1], "should be an object", "[1]"),
    "an error": ({"error": {"message": "out of memory"}}, "choices: must be given", "out of memory"),
    "no choices": (completion() | {"choices": []}, "choices: tuple should have at least 1 item", ""),
    "no text": (completion(None), "choices.0.message.content: input should be a valid string, not null", ""),
    "no message": ({"choices": [{"text": "of completions"}]}, "choices.0.message: must be given", ""),
    "half a letter": (b'{"choices": [{"message": {"content": "\\ud800"}}]}', "Invalid JSON", ""),
    "too deep": (b"[" * 100_000, "Invalid JSON", "[[["),
    "too long": (completion("x" * served.MOST_ANSWER_BYTES), "longer than 8388608 bytes", ""),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_no_chat_completion_ends_the_run_and_names_the_prompt(chat, ask, tmp_path, kind):
    prompts = tmp_path / "gaps.jsonl"
    prompts.write_text('{"prompt": "a"}\n\n\n{"prompt": "b"}\n')
    bad, reason, words = MALFORMED[kind]
    chat.answer = lambda body: bad if body["messages"][0]["content"] == "b" else completion()
    code, said = ask(prompts=str(prompts), samples_per_prompt=1)
    assert code == 2 and [body["messages"][0]["content"] for body in chat.bodies].count("b") == 1
    assert said.startswith(f"{prompts} line 4: {chat.url} sent no chat completion (")
    assert reason in said and words in said
    assert len(said) < 1000 and said.count("\n") == 1


def test_an_answer_without_end_is_not_read_to_its_end(chat, ask, monkeypatch):
    sent = 0

    def pour(handler):
        nonlocal sent
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.send_response(200)
        handler.end_headers()
        while not chat.over.is_set():
            sent += handler.wfile.write(b" " * 2**16)

    monkeypatch.setattr(chat, "take", pour)
    code, said = ask(server_concurrency=1)
    assert code == 2 and "longer than 8388608 bytes" in said
    assert sent < 4 * served.MOST_ANSWER_BYTES


def test_several_processes_are_refused():
    with pytest.raises(EngineError, match="by one process alone"):
        served.ask_for_completions(
            [], Generate(model="m", prompts="p"), SimpleNamespace(processes=Processes(1, 2))
        )


# Interruptions


def stops_at(chat, number):
    """Answer the first requests, then hang, and ask this process to stop."""
    numbers = count(1)

    def answer(body):
        if next(numbers) < number:
            return echo(body)
        os.kill(os.getpid(), signal.SIGTERM)
        chat.over.wait(100)
        return None

    return answer


def test_asked_to_stop_it_leaves_requests_that_hang_and_asks_only_for_the_rest_again(engine, chat, ask):
    assert ask("whole", samples_per_prompt=2)[0] == 0
    wanted = sorted(map(json.dumps, chat.bodies))
    chat.asked.clear()
    chat.answer = stops_at(chat, 7)
    began = time.monotonic()
    assert ask(samples_per_prompt=2, server_concurrency=1)[0] == 143
    assert time.monotonic() - began < 50
    assert len(chat.asked) == 7 and not (engine.folder / "out" / "completions.jsonl").exists()
    with (engine.folder / "out" / "answers.jsonl").open("a") as file:
        file.write('{"damaged": 1}\n{"asked": "torn')
    chat.answer = echo
    assert ask(samples_per_prompt=2, server_concurrency=1)[0] == 0
    assert len(chat.asked) == 7 + 10
    assert sorted({json.dumps(body) for body in chat.bodies}) == wanted
    assert rows_of(engine) == rows_of(engine, "whole")
    assert engine.result("out") == engine.result("whole")


def test_what_came_before_an_error_is_not_asked_again_either(engine, chat, ask):
    answers = [completion(f"text {number}") for number in range(5)]
    chat.answer = in_turn(*answers, (401, {}, b"expired"))
    assert ask(server_concurrency=1)[0] == 2
    chat.answer = echo
    assert ask(server_concurrency=1)[0] == 0
    assert len(chat.asked) == 6 + 11
    assert [row["completion"] for row in rows_of(engine)[:5]] == [f"text {number}" for number in range(5)]


def test_a_pause_is_cut_short_by_the_wish_to_stop(chat, ask):
    def busy(body):
        os.kill(os.getpid(), signal.SIGTERM)
        return 429, {"Retry-After": "60"}, b""

    chat.answer = busy
    began = time.monotonic()
    assert ask(server_concurrency=1)[0] == 143
    assert time.monotonic() - began < 50


# The key and the address


def test_the_key_goes_to_the_server_and_into_no_file(engine, chat, ask, monkeypatch):
    monkeypatch.setenv(served.KEY_VARIABLE, f"{KEY}\n")
    chat.answer = in_turn((503, {}, f"not {KEY}".encode()), completion(), (400, {}, {"error": f"not {KEY}"}))
    code, said = ask(server_concurrency=1)
    assert code == 2 and "(the key)" in said
    assert {headers["Authorization"] for _, _, headers, _ in chat.asked} == {f"Bearer {KEY}"}
    files = [path for path in engine.folder.rglob("*") if path.is_file()]
    assert {"answers.jsonl", "config.json", "events.jsonl"} <= {path.name for path in files}
    assert not [path for path in files if "secret" in path.read_text()]


def test_without_a_key_none_is_sent(chat, ask):
    assert ask()[0] == 0
    assert not any("Authorization" in headers for _, _, headers, _ in chat.asked)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "\x7f"])
def test_a_key_that_is_none_is_refused_without_being_said(chat, ask, monkeypatch, key):
    monkeypatch.setenv(served.KEY_VARIABLE, key)
    code, said = ask()
    assert code == 2 and not chat.asked
    assert said == f"{served.KEY_VARIABLE}: holds a character that cannot be in a key\n"


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("HTTPS://API.Example.org/v1/", "https://api.example.org/v1"),
        ("http://vllm_server:08000", "http://vllm_server:8000"),
        ("http://[::0:1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://10.0.0.7/a/B.c/~d", "http://10.0.0.7/a/B.c/~d"),
    ],
)
def test_an_address_has_one_spelling(given, spelled):
    assert server_url(given) == spelled == server_url(spelled)


@pytest.mark.parametrize(
    "url",
    [
        "", "host:8000/v1", "ftp://host/v1", "file:///etc/passwd", "http://", "http:///v1", "http://host:0", "http://host:65536",
        "http://host:port", "http://ho st/", "http://host/v1\n", "http://host/v1//", "http://host\\evil/", "http://[::1", "http://[1:2]/",
        "http://hôst/", "http://a..b/", "http://host/%2e", f"http://{'a' * 64}/", " http://host/v1", "http://ſerver/",
        "http://user:password@host/v1", "http://password@host", "http://host/v1?key=password", "http://host/v1#password",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_no_password_is_said(engine, prompts, capsys, url):
    assert engine.run("generate", "out", model="large", prompts=prompts, server=url) == 2
    said = capsys.readouterr().err
    assert "server: must be the base URL" in said or "server: may hold no name, password or key" in said
    assert "password" not in said.replace("name, password or key", "")


def test_a_models_name_goes_with_a_server(engine, llama, prompts, capsys):
    assert engine.run("generate", "out", model=llama, prompts=prompts, server_model_name="x") == 2
    assert "server_model_name: goes with server" in capsys.readouterr().err


def test_without_a_server_nothing_of_it_is_loaded(engine, llama, prompts, monkeypatch):
    monkeypatch.setitem(sys.modules, "training.engine.served", None)
    monkeypatch.delattr("training.engine.served")
    assert engine.run("generate", "out", model=llama, prompts=prompts) == 0
    with pytest.raises(ImportError):
        engine.run("generate", "other", model=llama, prompts=prompts, server="http://127.0.0.1:9/v1")
