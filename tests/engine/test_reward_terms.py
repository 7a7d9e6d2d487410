"""Terms of the reward: each by hand, each against hostile texts, and all of them in a run."""

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.conftest import LIMITS, TOY, write_rows
from tests.engine.test_training import PPO, players_of
from training.engine.config import EngineError, Ppo, describe, load_config
from training.engine.generation import Completion
from training.engine.json_schema import MAX_DEPTH
from training.engine.online_settings import Online
from training.engine.records import CompletionRecord, PromptRecord
from training.engine.reward_settings import TERM_KINDS, term_names
from training.engine.reward_terms import Sample, answer_check, build_terms, last_number

QUESTION = PromptRecord(prompt="q", answer="42")


def terms_of(*terms, **changes):
    return Ppo(model="-", prompts="-", rewards=list(terms), **LIMITS | changes).rewards


def value(term, text, answer="42", tokens=1):
    prompt = PromptRecord(prompt="q", answer=answer)
    (compute,) = build_terms(terms_of(term), LIMITS["max_completion_tokens"])
    (number,) = compute([Sample(prompt, text, tokens)])
    return number


# What is read of a completion


@pytest.mark.parametrize(
    ("term", "text", "expected"),
    [
        ({}, "42", 1),
        ({}, " 42\n", 1),
        ({"strip": False}, " 42", 0),
        ({}, "", 0),
        ({"extract": "last_line"}, "so it is\n42\n\n", 1),
        ({"extract": "last_line"}, "42\nor 43", 0),
        ({"extract": "last_line"}, "\n\n", 0),
        ({"extract": "answer_tags"}, "<think>43</think><answer> 42 </answer>!", 1),
        ({"extract": "answer_tags"}, "42", 0),
        ({"extract": "answer_tags"}, "<answer>42", 0),
        # The last tags count, so that trying several answers is not paid.
        ({"extract": "answer_tags"}, "<answer>42</answer><answer>43</answer>", 0),
        ({"extract": "answer_tags"}, "<answer>42</answer><answer>", 0),
        ({"extract": "pattern", "extract_pattern": r"is (\d+)"}, "is 7, no, is 42.", 1),
        ({"extract": "pattern", "extract_pattern": r"\d+"}, "is 42.", 1),
        ({"extract": "pattern", "extract_pattern": r"(\d+)|x"}, "42 x", 0),
        ({"extract": "pattern", "extract_pattern": r"is (\d+)"}, "42", 0),
    ],
)
def test_an_answer_is_read_where_it_should_stand(term, text, expected):
    assert value({"kind": "exact_answer"} | term, text) == expected


@pytest.mark.parametrize(
    ("settings", "said", "right", "expected"),
    [
        ({}, "Paris", "Paris", 1),
        ({}, "paris", "Paris", 0),
        ({"ignore_case": True}, "STRASSE", "straße", 1),
        ({}, "New  York", "New York", 0),
        ({"collapse_whitespace": True}, "New\n York", "New York", 1),
        ({}, "Paris.", "Paris", 0),
    ],
)
def test_both_sides_of_an_exact_answer_are_normalised_alike(settings, said, right, expected):
    assert value({"kind": "exact_answer"} | settings, said, right) == expected


# Numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", 42), ("-42", -42), ("\u221242", -42), ("+42", 42), ("so x=-3.", -3), ("5-3", 3), ("2 - 5", 5),
        ("1,234,567.5", "1234567.5"), ("$1,000", 1000), ("-$5", -5), (".5", "0.5"), ("3.", 3), ("1e3", 1000),
        ("2.5E-1", "0.25"), ("3/4", "3/4"), ("-1/2", "-1/2"), ("50%", "1/2"), ("5 %", "1/20"), ("42kg", 42),
        ("first 41, then 42", 42), ("no", None), ("", None), ("1/0", None), ("1,5", None), ("1,2345", None),
        ("1.2.3", None), ("1/2/3", None), ("NaN", None), ("-inf", None), ("1e999999999", None),
        ("9" * 101, None), ("9" * 100, "9" * 100), ("7 " + "9" * 5000, None), ("\u0664\u0662", None),
    ],
)  # fmt: skip
def test_the_last_number_of_a_text(text, expected):
    assert last_number(text) == (None if expected is None else Fraction(expected))


@pytest.mark.parametrize(
    ("settings", "said", "right", "expected"),
    [
        ({}, "it is 42.0", "42", 1),
        ({}, "0.1", "1/10", 1),
        ({}, "0.333", "1/3", 0),
        ({"absolute_tolerance": 0.001}, "0.333", "1/3", 1),
        (
            {"absolute_tolerance": 0.3},
            "1.3",
            "1",
            1,
        ),  # The edge counts, without the rounding of binary numbers.
        ({"absolute_tolerance": 0.3}, "1.3001", "1", 0),
        ({"relative_tolerance": 0.01}, "-101", "-100", 1),
        ({"relative_tolerance": 0.01}, "-102", "-100", 0),
        ({"relative_tolerance": 0.01, "absolute_tolerance": 5}, "104", "100", 1),
        ({}, "50", "50%", 0),
        ({}, "1e300", "1e300", 1),
    ],
)
def test_numbers_within_the_tolerance_are_right(settings, said, right, expected):
    assert value({"kind": "number"} | settings, said, right) == expected


# Patterns, JSON, form


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({"pattern": r"\bcat\b"}, "a cat sat", 1),
        ({"pattern": r"\bcat\b"}, "concat", 0),
        ({"pattern": r"(cat)?"}, "dog", 1),  # A match of nothing is a match.
        ({"pattern": "cat", "match": "full"}, "cat", 1),
        ({"pattern": "cat", "match": "full"}, "cats", 0),
        ({"pattern": "(?i)CAT"}, "cat", 1),
    ],
)
def test_a_pattern_matches_or_not(settings, text, expected):
    assert value({"kind": "regex"} | settings, text) == expected


def test_a_pattern_that_would_search_for_ever_gives_up():
    assert value({"kind": "regex", "pattern": "(x+x+)+y"}, "x" * 5000) == 0
    assert value({"kind": "regex", "pattern": "(x+x+)+y", "match": "full"}, "x" * 5000) == 0
    assert (
        value({"kind": "exact_answer", "extract": "pattern", "extract_pattern": "(x+x+)+y"}, "x" * 5000) == 0
    )
    schema = {"type": "array", "items": {"pattern": "(x+x+)+y"}}
    assert value({"kind": "json_schema", "json_schema": schema}, json.dumps(["x" * 500] * 100)) == 0


SHAPE = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "pattern": "^[a-z]+$"}, "child": {"$ref": "#"}},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "a"}', 1),
        ('{"name": "A"}', 0),
        ('{"name": 3}', 0),
        ("{}", 0),
        ('{"name": "a", "child": {"name": "b"}}', 1),
        ('{"name": "a", "child": {}}', 0),
        ('{"name": "a"} and more', 0),
        ("", 0),
        ('{"name": "a", "x": NaN}', 0),
        ('{"name": "a", "x": -Infinity}', 0),
        ('{"name": "a", "x": 1e999}', 0),
        ('{"name": "a", "x": ' + "9" * 100 + "}", 1),
        ('{"name": "a", "x": ' + "9" * 101 + "}", 0),
        ('{"name": "a", "x": ' + "9" * 5000 + "}", 0),
        ('{"name": "a", "x": ' + "[" * 100_000, 0),
        ('{"name": "a", "x": ' + "[" * 5000 + "]" * 5000 + "}", 0),
        ('{"name": "a", "x": [' + "1," * 5000 + "1]}", 0),
        ('{"name": "a",' * 3, 0),
        ('"\\ud800"', 0),
    ],
)
def test_json_is_held_against_the_schema(text, expected):
    assert value({"kind": "json_schema", "json_schema": SHAPE}, text) == expected


def test_json_may_be_nested_to_our_limit_and_no_deeper():
    def nested(depth):
        return '{"name": "a", "child": ' * (depth - 2) + '{"name": "a"}' + "}" * (depth - 2)

    term = {"kind": "json_schema", "json_schema": SHAPE}
    assert value(term, nested(MAX_DEPTH)) == 1
    assert value(term, nested(MAX_DEPTH + 1)) == 0


def test_json_is_read_in_the_answer_alone():
    term = {"kind": "json_schema", "json_schema": {"type": "array"}, "extract": "answer_tags"}
    assert value(term, "here: <answer>[1, 2]</answer>") == 1
    assert value(term, "[1, 2]") == 0


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"type": "nonsense"}, "type is no JSON Schema"),
        ({"$ref": "http://example.org/schema.json"}, "is outside the schema"),
        ({"$ref": "file:///etc/passwd"}, "is outside the schema"),
        ({"$ref": "#/$defs/absent"}, "refers to nothing within the schema"),
        ({"$ref": "#"}, "refers to itself without end"),
        ({"pattern": "("}, "no regular expression|no JSON Schema"),
        ({"patternProperties": {"a": {}}}, "patternProperties is not known"),
        ({"$schema": "http://example.org/draft"}, "there is no draft"),
    ],
)
def test_a_schema_that_cannot_be_used_is_named_before_the_run(schema, complaint):
    terms = terms_of(TOY, {"kind": "json_schema", "json_schema": schema})
    with pytest.raises(EngineError, match=rf"^rewards\.1\.json_schema: .*({complaint})"):
        build_terms(terms, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>b</answer>", 1),
        (" <think>a\n</think>\n\n<answer>b</answer>\n", 1),
        ("<think>a</think><answer></answer>", 0),
        ("<think> </think><answer>b</answer>", 0),
        ("<answer>b</answer><think>a</think>", 0),
        ("<think>a<answer>b</think></answer>", 0),
        ("<think>a</think>so<answer>b</answer>", 0),
        ("so <think>a</think><answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer>.", 0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0),
        ("<think>a<think>b</think><answer>c</answer>", 0),
        ("<think>a</think><answer>b", 0),
        ("<Think>a</Think><answer>b</answer>", 0),
        ("", 0),
    ],
)
def test_thoughts_and_answer_stand_in_their_tags(text, expected):
    assert value({"kind": "think_format"}, text) == expected


# Length and repetition


@pytest.mark.parametrize(
    ("settings", "tokens", "expected"),
    [
        ({"minimum": 2, "maximum": 4}, 1, -1),
        ({"minimum": 2, "maximum": 4}, 2, 0),
        ({"minimum": 2, "maximum": 4}, 4, 0),
        ({"minimum": 2, "maximum": 4}, 5, -1),
        ({"minimum": 4, "margin": 4}, 3, -0.25),
        ({"minimum": 4, "margin": 2}, 1, -1),
        ({"maximum": 4, "margin": 4}, 7, -0.75),
        ({"maximum": 4, "margin": 4}, 8, -1),
        ({"maximum": 4, "margin": 4, "form": "bonus"}, 3, 1),
        ({"maximum": 4, "margin": 4, "form": "bonus"}, 7, 0.25),
        ({"maximum": 0}, 0, 0),
        # DAPO with L_max = 8 (the greatest length of these tests) and L_cache = 4.
        ({"overlong_tokens": 4}, 4, 0),
        ({"overlong_tokens": 4}, 5, -0.25),
        ({"overlong_tokens": 4}, 8, -1),
    ],
)
def test_lengths_outside_the_range_cost(settings, tokens, expected):
    assert value({"kind": "length"} | settings, "x", tokens=tokens) == expected


def test_words_are_counted_between_white_space():
    term = {"kind": "length", "unit": "words", "maximum": 2, "margin": 4}
    assert value(term, " one two\nthree ", tokens=99) == -0.25


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        (3, "a b a b a b", -0.5),  # aba bab aba bab: two of four came before
        (1, "a a a a", -0.75),
        (2, "a b c d", 0),
        (3, "a b", 0),
        (3, "", 0),
    ],
)
def test_repeated_ngrams_cost_their_share(words, text, expected):
    assert value({"kind": "repetition", "ngram_words": words}, text) == expected


# Callables


def of_two(prompts, completions):
    return [len(prompt) + len(text) for prompt, text in zip(prompts, completions, strict=True)]


def of_rows(prompts, completions, rows):
    return [float(row["answer"]) + row["id"] for row in rows]


def of_anything(prompts, completions, **more):
    return [len(more["rows"])] * len(completions)


def huge(prompts, completions):
    return [1e300] * len(completions)


def nothing(prompts, completions):
    return None


number_not_function = 3


def path(name):
    return {"kind": "callable", "path": f"tests.engine.test_reward_terms:{name}"}


def test_a_callable_gets_rows_where_it_takes_them():
    samples = [Sample(PromptRecord(prompt="abc", answer="42", id=1), "de", 2)]
    found = [
        build_terms(terms_of(path(name)), 8)[0](samples) for name in ("of_two", "of_rows", "of_anything")
    ]
    assert found == [[5.0], [43.0], [1.0]]


@pytest.mark.parametrize("name", ["huge", "nothing"])
def test_what_a_callable_must_not_return(name):
    with pytest.raises(EngineError, match=rf"rewards\.0: .*:{name} must return 1 finite numbers"):
        value(path(name), "x")


def test_a_path_to_something_that_is_no_function_is_named():
    with pytest.raises(EngineError, match=r"rewards\.0\.path: .* is no function"):
        build_terms(terms_of(path("number_not_function")), 8)


# Settings


def test_every_setting_of_a_term_is_described_and_read():
    import ast

    from tests.engine.test_config import SOURCES, attributes_read

    read = set().union(*(attributes_read(ast.parse(source.read_text())) for source in SOURCES))
    printed = describe("ppo")
    for kind, model in TERM_KINDS.items():
        assert f"    {kind}: " in printed
        for name, field in model.model_fields.items():
            assert field.description in printed or name == "kind"
            assert name in read
            assert model.model_fields["kind"].default == kind


def test_terms_of_one_kind_get_names_of_their_own():
    number = {"kind": "number"}
    terms = terms_of(number, {**number, "name": "number_2"}, number, TOY, TOY, {**TOY, "name": "taste"})
    assert term_names(terms) == ["number", "number_2", "number_3", "share_of_a", "share_of_a_2", "taste"]
    assert isinstance(terms[0], TERM_KINDS["number"])


@pytest.mark.parametrize(
    ("rewards", "complaint"),
    [
        ([{"kind": "regex", "pattern": "("}], "rewards.0.pattern: '(' is no regular expression"),
        (
            [TOY, {"kind": "number", "extract": "pattern", "extract_pattern": "[a"}],
            "rewards.1.extract_pattern: ",
        ),
        ([{"kind": "number", "extract": "pattern"}], "rewards.0: extract = pattern and extract_pattern go"),
        ([{"kind": "number", "extract_pattern": "a"}], "rewards.0: extract = pattern and extract_pattern go"),
        ([{"kind": "nmber"}], "rewards.0: kind must be one of exact_answer, number, regex"),
        (["number"], "rewards.0: kind must be one of"),
        ([{"kind": "number", "ignore_case": True}], "rewards.0.ignore_case: there is no such setting"),
        ([{"kind": "json_schema"}], "rewards.0.json_schema: must be given"),
        ([{"kind": "number", "weight": 1e9}], "rewards.0.weight: "),
        ([{"kind": "number", "name": "a b"}], "rewards.0.name: "),
        ([{"kind": "number", "name": "model_std"}], "rewards.0.name: model_std is the reward model's"),
        (
            [{"kind": "number", "name": "x"}, {"kind": "regex", "pattern": "a", "name": "x"}],
            "rewards.1.name: x is",
        ),
        ([{"kind": "length"}], "rewards.0: give minimum, maximum or overlong_tokens"),
        ([{"kind": "length", "minimum": 3, "maximum": 2}], "rewards.0: minimum: may not be greater"),
        ([{"kind": "length", "overlong_tokens": 2, "maximum": 2}], "rewards.0: overlong_tokens: is a range"),
        ([{"kind": "length", "overlong_tokens": 8}], "rewards.0.overlong_tokens: must be less than"),
        ([{"kind": "length", "minimum": 9}], "rewards.0.minimum: is more than max_completion_tokens"),
    ],
)
def test_a_bad_term_is_named_with_its_place(tmp_path, rewards, complaint):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LIMITS | {"model": "-", "prompts": "-", "rewards": rewards}, indent=1))
    with pytest.raises(EngineError) as caught:
        load_config("ppo", file)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_the_terms_in_the_docs_are_accepted():
    text = (Path(__file__).resolve().parents[2] / "docs" / "rewards.md").read_text()
    shown = [json.loads(line) for line in text.splitlines() if line.startswith('    {"kind"')]
    assert {term["kind"] for term in shown} == set(TERM_KINDS)
    for term in shown:
        terms_of(term, max_completion_tokens=512)


def test_a_config_with_terms_reads_back_as_it_was_written():
    config = Ppo(model="-", prompts="-", rewards=ALL_TERMS, **LIMITS)
    assert Ppo.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


# Rows


@pytest.mark.parametrize(
    ("term", "row", "complaint"),
    [
        ({"kind": "exact_answer"}, {}, "answer: must be given, which rewards.0 (exact_answer) compares with"),
        ({"kind": "exact_answer"}, {"answer": " "}, "answer: is empty"),
        (
            {"kind": "number"},
            {"answer": None},
            "answer: must be given, which rewards.0 (number) compares with",
        ),
        ({"kind": "number"}, {"answer": "about 3"}, "answer: must be a number"),
        ({"kind": "number"}, {"answer": [3]}, "answer: must be given, which rewards.0 (number)"),
    ],
)
def test_a_prompt_without_the_answer_is_named_before_weights_load(
    engine, llama, tmp_path, capsys, monkeypatch, term, row, complaint
):
    from transformers import AutoModelForCausalLM

    def refuse(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    file = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "a", "answer": 3}, {"prompt": "b", **row}])
    assert engine.run("ppo", "out", model=llama, prompts=file, **PPO | {"rewards": [term]}) == 2
    said = capsys.readouterr().err
    assert f"prompts.jsonl line 2: {complaint}" in said and said.count("\n") == 1


def test_an_answer_may_be_written_as_a_number():
    assert PromptRecord(prompt="q", answer=42).answer == "42"
    assert PromptRecord(prompt="q", answer=0.5).answer == "0.5"
    check = answer_check(terms_of({"kind": "number"}))
    check(PromptRecord(prompt="q", answer=-0.5))


def test_answers_are_kept_from_prompts_to_completions_to_scores(engine, llama, tmp_path):
    from tests.engine.test_training import REWARD, taste

    rows = [{"prompt": "a", "answer": "b"}, {"prompt": "c"}]
    file = write_rows(tmp_path / "prompts.jsonl", rows)
    assert engine.run("generate", "gen", model=llama, prompts=file) == 0
    completions = engine.folder / "gen" / "completions.jsonl"
    records = [CompletionRecord.model_validate_json(line) for line in completions.open()]
    assert [record.answer for record in records] == ["b", "b", None, None]
    train = write_rows(tmp_path / "train.jsonl", taste(16))
    engine.run("reward", "judge", model=llama, train_data=train, **REWARD | {"epochs": 1})
    assert (
        engine.run("score", "score", model=str(engine.folder / "judge/model"), completions=str(completions))
        == 0
    )
    lines = (engine.folder / "score" / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["answer"] for line in lines] == ["b", "b", None, None]


# Together


ALL_TERMS = [
    {"kind": "exact_answer", "extract": "last_line"},
    {"kind": "number", "extract": "pattern", "extract_pattern": r"(\S+)\s*$", "weight": 2.0},
    {"kind": "regex", "pattern": "(a|b)+ c"},
    {"kind": "json_schema", "json_schema": SHAPE},
    {"kind": "think_format"},
    {"kind": "length", "maximum": 4, "margin": 2},
    {"kind": "length", "overlong_tokens": 2},
    {"kind": "repetition"},
    TOY,
]
RANGES = [(0, 1)] * 5 + [(-1, 0)] * 3
COMPUTE = build_terms(terms_of(*ALL_TERMS), 8)[:8]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["<think>", "</think>", "<answer>", "</answer>", "1", "9" * 40, "e", "-", "/", ",", ".", "%", "[", "]",
             "{", "}", '"name"', ":", "\n", " ", "a", "x" * 50, "\u0000", "\U0001f600", "\ud800"]
        )
    ).map("".join)
    | st.text()
)  # fmt: skip
def test_whatever_a_text_holds_each_term_stays_in_its_range(text):
    sample = Sample(QUESTION, text, len(text))
    for compute, (low, high) in zip(COMPUTE, RANGES, strict=True):
        (found,) = compute([sample])
        assert isinstance(found, float) and math.isfinite(found) and low <= found <= high


def test_terms_are_weighted_added_and_logged_each_on_its_own(llama):
    rewards = [
        {"kind": "regex", "pattern": "^a"},
        {"kind": "regex", "pattern": "b$", "weight": -0.5, "name": "ends_in_b"},
        {"kind": "exact_answer", "weight": 3.0},
        {"kind": "length", "maximum": 1, "margin": 4},
    ]
    _, players = players_of(llama, rewards=[TOY])
    config = Ppo(model=llama, prompts="-", **LIMITS | PPO | {"rewards": rewards})
    scorer = type(players.rewards)(config, build_terms(config.rewards, 8), None, players.policy)
    prompts = [PromptRecord(prompt="c", answer="a b"), PromptRecord(prompt="c", answer="a")]
    completions = [Completion([6], [4, 5, 0], torch.zeros(3), True)] * 2  # "a b"
    scores, logged = scorer(prompts, completions)
    # By hand: 1 - 0.5 + 3 - 0.5 and 1 - 0.5 + 0 - 0.5 (three tokens are two too long of four).
    assert scores.tolist() == [3.0, 0.0]
    assert logged == {
        "reward_regex": 1.0,
        "reward_ends_in_b": 1.0,
        "reward_exact_answer": 0.5,
        "reward_length": -0.5,
    }


def test_the_learned_model_counts_by_its_weight_less_its_spread(llama):
    class Judges:
        tokenizer, end_tokens, model, ensemble = None, [0], torch.nn.Linear(1, 1), object()

        def score_rows_with_spread(self, rows, budget):
            return torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])

    _, players = players_of(llama)
    Judges.tokenizer = players.policy.tokenizer
    values = {
        "rewards": [],
        "reward_model": "-",
        "reward_model_weight": 2.0,
        "reward_spread_coefficient": 3.0,
    }
    config = Ppo(model=llama, prompts="-", **LIMITS | PPO | values)
    rewards = type(players.rewards)(config, [], Judges(), players.policy)
    scores, logged = rewards([QUESTION] * 2, [Completion([6], [4, 0], torch.zeros(2), True)] * 2)
    assert scores.tolist() == [2 * (1 - 1.5), 4.0]
    assert logged == {"reward_model": 1.5, "reward_model_std": 0.5, "reward_model_spread": 0.25}


def test_a_run_with_every_kind_of_term_logs_each(engine, llama, tmp_path):
    file = write_rows(tmp_path / "prompts.jsonl", [{"prompt": text, "answer": 3} for text in "abcd"])
    short = PPO | {"steps": 2, "rewards": ALL_TERMS}
    assert engine.run("ppo", "out", model=llama, prompts=file, **short) == 0
    metrics = engine.events("out", "metrics")[-1]["metrics"]
    named = {f"reward_{name}" for name in term_names(terms_of(*ALL_TERMS))}
    assert named <= metrics.keys() and "reward_length_2" in named


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ppo_raises_how_often_a_pattern_matches(engine, llama, prompts, seed):
    term = {"kind": "regex", "pattern": r"\ba\b", "name": "says_a", "weight": 2.0}
    settings = PPO | {"rewards": [term], "missing_eos_penalty": 1.0}  # else it may never stop talking
    assert engine.run("ppo", "out", model=llama, prompts=prompts, seed=seed, **settings) == 0
    shares = [event["metrics"]["reward_says_a"] for event in engine.events("out", "metrics")]
    assert sum(shares[-3:]) / 3 > sum(shares[:3]) / 3 + 0.2


def test_the_settings_of_rewards_belong_to_every_online_method():
    assert {"rewards", "reward_model_weight", "reward_spread_coefficient"} <= Online.model_fields.keys()
