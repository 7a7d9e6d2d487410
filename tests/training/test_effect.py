"""What my answers did: what each round learned from a person, where it agrees, and what nobody else is shown."""

import uuid
from datetime import timedelta
from random import Random

import pytest
from django.db import connection
from django.db.models import F
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from config.storage import local_path
from labeling import repeats
from labeling.answers import Better
from labeling.assignment import next_for
from labeling.judging import revise, withdraw
from labeling.models import Project, User
from labeling.projects import add_member
from labeling.repeats import repeat_of
from labeling.selection import create_comparison
from tests.labeling.conftest import rows_read
from tests.training.rounds import answer_again, ask, loop_of, say, trained
from training import effect
from training.effect import Answered, Learned
from training.engine.preferences import within_span
from training.engine.records import PreferenceRecord, iterate_records
from training.models import LoopSettings, Round

SPLITS = ["train"] * 6 + ["eval"] * 3


def likes_kind(completion):
    return "kind" in completion.text


def likes_short(completion):
    return "short" in completion.text


@pytest.fixture
def asked(project):
    loop_of(project)
    return ask(project, SPLITS)


@pytest.fixture
def bobs(client, bob):
    client.force_login(bob)

    def page(**query):
        response = client.get(reverse("training:effect", args=["support"]), query)
        assert response.status_code == 200
        return " ".join(response.content.decode().split())

    return page


def told(person, project):
    """Of every round that is over, the newest first."""
    return effect.told(person, effect.other_rounds(project, None, None))


def figures(agreement):
    """Of each split, of how many answers which share."""
    return {split: (one.of, one.share) for split, one in agreement.items()}


# Functions over plain values


def answer(split, *pairs, prompt=1):
    return Answered(1, 1, prompt, split, list(pairs))


def test_an_answer_is_agreed_with_where_the_preferred_one_scores_higher():
    scores = {1: 2.0, 2: 1.0, 3: 1.0}
    assert effect.agreed(answer("train", (1, 2)), scores) == 1.0
    assert effect.agreed(answer("train", (2, 1)), scores) == 0.0
    assert effect.agreed(answer("train", (2, 3)), scores) == 0.5
    assert effect.agreed(answer("train", (1, 2), (1, 3), (3, 1), (2, 1)), scores) == 0.5, (
        "a ranking by its pairs"
    )
    assert effect.agreed(answer("train", (1, 4)), scores) is None


def test_held_out_answers_are_counted_apart_from_those_learned_from():
    scores = {1: 2.0, 2: 1.0}
    right, wrong = (1, 2), (2, 1)
    answers = [answer("train", right)] * 3 + [answer("train", wrong), answer("eval", wrong)]
    assert figures(effect.agreement(answers, scores)) == {"train": (4, 0.75), "eval": (1, 0.0)}


@pytest.mark.parametrize(
    ("prompts", "lowest"),
    # Wilson's lower bound of n that all agree is 1 / (1 + z² / n); n is how many prompts there are.
    [(20, 0.8389), (4, 0.5101), (1, 0.2065)],
)
def test_answers_to_one_prompt_say_less_than_as_many_to_several(prompts, lowest):
    answers = [answer("eval", (1, 2), prompt=number % prompts) for number in range(20)]
    found = effect.agreement(answers, {1: 2.0, 2: 1.0})["eval"]
    assert (found.of, found.share) == (20, 1.0)
    assert found.interval == pytest.approx((lowest, 1.0), abs=1e-4)
    assert (found.low, found.high, found.width) == (round(100 * lowest), 100, 100 - round(100 * lowest))


# What is told


def test_a_round_tells_how_many_answers_of_a_person_trained_it(project, bob, asked):
    eve = User.objects.create_user("eve")
    add_member(project, eve, "annotator")
    say(bob, project, "kind")
    ask(project, ["train", "eval", "eval"])
    say(eve, project, "short")
    trained(project)
    assert [one.learned for one in told(bob, project)] == [Learned(6, 3, 6)]
    assert [one.learned for one in told(eve, project)] == [Learned(1, 2, 1)]


def test_a_ranking_is_one_answer_and_several_preferences(project, bob):
    loop_of(project)
    ask(project, ["train"], ("kind", "short", "rude", "long"))
    say(bob, project, "kind")
    trained(project)
    (one,) = told(bob, project)
    assert one.learned == Learned(1, 0, 6)
    assert [len(answer.pairs) for answer in one.answers] == [6]


def test_the_new_reward_model_stands_beside_the_one_before_on_the_same_held_out_answers(project, bob, asked):
    say(bob, project, "kind")
    first = trained(project, likes_short)
    trained(project, likes_kind)
    newest, oldest = told(bob, project)
    assert figures(newest.now) == {"train": (6, 1.0), "eval": (3, 1.0)}
    assert figures(oldest.now) == {"train": (6, 0.0), "eval": (3, 0.0)}
    assert (newest.before, newest.differing) == (oldest.now["eval"], 3)
    assert oldest.before is None
    of_one = first.reward.scores.filter(completion__prompt=asked[-1].prompt)
    of_one.update(value=1 - F("value"))
    newest = told(bob, project)[0]
    assert (newest.before.percent, newest.differing) == (33, 2), "of one answer they say the same"
    of_one.delete()
    assert told(bob, project)[0].before is None, "a figure of fewer answers is not held beside it"


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "halted", "stage": "reward_gate"},
        {"outcome": "halted", "stage": "policy"},
        {"outcome": "cancelled", "stage": "policy"},
    ],
)
def test_a_reward_model_that_was_not_used_is_held_against_nothing(project, bob, asked, fields):
    say(bob, project, "kind")
    used = trained(project, likes_short)
    left_out = trained(project, likes_kind, **fields)
    newest = trained(project, likes_kind)
    assert effect.round_before(newest) == used
    _, its_own, _ = told(bob, project)
    assert its_own.round == left_out and its_own.now == {} and its_own.unmeasured
    refused = trained(project, likes_kind, outcome="halted", stage="policy_gate")
    assert effect.round_before(trained(project)) == refused, "of its policy alone was nothing used"


def test_what_a_reward_model_was_not_given_is_none_of_what_it_learned_from(project, bob, asked, bobs):
    ask(project, ["train"] * 10)
    say(bob, project, "kind")
    round = trained(project, likes_kind)
    assert "Answers that it was not given" not in bobs()
    span = [0.4, 1.0]
    round.reward.run = round.runs.create(
        project=project,
        method="reward",
        status="done",
        config={"prompt_span": span},
        finished_at=round.finished_at,
    )
    round.reward.save()
    rows = list(iterate_records(local_path(round.dataset_version.train_file), PreferenceRecord))
    given = len(within_span(rows, span))
    assert 0 < given < len(rows) == 16
    (one,) = told(bob, project)
    assert figures(one.now) == {"train": (given, 1.0), "not_given": (16 - given, 1.0), "eval": (3, 1.0)}
    assert one.learned == Learned(16, 3, 16), "the other reward model is of the round, too"
    page = bobs()
    assert "Round 1 learned from a part of your answers" in page and "they taught nothing" in page
    assert "was given a different part" not in page and "the one that watches it" not in page
    assert "It has not seen these prompts either." in page
    later = trained(project)
    assert "<p>learned from a part of your answers" in bobs(), "below a newer round"
    given_prompts = [answer.prompt for answer in one.answers if answer.split != "not_given"]
    round.reward.scores.filter(completion__prompt__in=given_prompts).delete()
    assert "None of your newest answers was given to it." in bobs()
    later.delete()
    Round.objects.update(held_out_reward=round.reward)
    page = bobs()
    assert "Answers that it was not given" in page and "was given a different part" in page
    assert "Round 1 learned from 16 of your answers" in page and "the one that watches it" in page
    Round.objects.update(held_out_reward=None)
    round.runs.update(method="dpo", stage="policy")
    assert "Round 1 learned from 16 of your answers" in bobs(), "its policy learned from the whole version"


def test_only_standing_answers_with_a_winner_are_considered(project, bob, asked):
    given = say(bob, project, "kind")
    version = trained(project).dataset_version
    assert [one.judgment for one in effect.considered(bob, version)] == [one.pk for one in reversed(given)]
    withdraw(given[0])
    revise(given[1], "tie", uuid.uuid4())
    revise(given[2], "preferred", uuid.uuid4(), ranking=given[2].ranking, strength=1)
    assert [one.judgment for one in effect.considered(bob, version)] == [
        one.pk for one in reversed(given[3:])
    ]
    later = trained(project).dataset_version
    assert len(effect.considered(bob, later)) == len(given) - 2
    assert len(effect.considered(bob, version)) == len(given) - 3, "what was said since was not in it"


def _as_large_tables_are_read():
    """By index, until the transaction ends: tables of so few rows would be read and joined whole."""
    with connection.cursor() as cursor:
        for way in ("seqscan", "hashjoin", "mergejoin", "bitmapscan", "material"):
            cursor.execute(f"SET LOCAL enable_{way} = off")


def test_the_page_reads_no_more_the_more_a_person_has_answered(project, bob, asked, monkeypatch):
    monkeypatch.setattr(effect, "NEWEST_ANSWERS", 5)

    def read(round):
        _as_large_tables_are_read()
        return rows_read(lambda: effect.considered(bob, round.dataset_version))

    say(bob, project, "kind")
    older = trained(project)
    few = read(older)
    ask(project, ["train"] * 80)
    say(bob, project, "kind")
    assert read(older) < few + 30, "of what was said since, nothing"
    newer = trained(project)
    counted = rows_read(lambda: effect.learned(bob, [newer.dataset_version_id]))
    assert effect.learned(bob, [newer.dataset_version_id])[newer.dataset_version_id].trained == 86
    assert counted <= 2, "what a version holds was counted when it was frozen"


def test_what_a_person_has_answered_elsewhere_is_walked_through_so_far_and_no_further(
    project, bob, asked, monkeypatch
):
    elsewhere = Project.objects.create(slug="sales", name="Sales")
    add_member(elsewhere, bob, "annotator")
    ask(elsewhere, ["train"] * 60)
    assert len(say(bob, elsewhere, "kind")) == 60
    say(bob, project, "kind")
    version = trained(project).dataset_version
    _as_large_tables_are_read()
    all_of_them = rows_read(lambda: effect.considered(bob, version))
    monkeypatch.setattr(effect, "MOST_LOOKED_AT", 12)
    assert len(effect.considered(bob, version)) == len(SPLITS)
    assert rows_read(lambda: effect.considered(bob, version)) < all_of_them - 57, "12 of 69 answers"


def test_a_better_answer_of_ones_own_is_none_that_a_model_is_held_to(project, bob):
    loop_of(project)
    ask(project, ["train"])
    (judgment,) = say(bob, project, "kind", edit=Better(0, "A kind answer, and a true one."))
    assert judgment.preferences.count() == 2
    (one,) = effect.considered(bob, trained(project).dataset_version)
    assert [len(one.pairs), one.judgment] == [1, judgment.pk]


def test_only_the_newest_answers_are_considered(project, bob, asked, monkeypatch):
    monkeypatch.setattr(effect, "NEWEST_ANSWERS", 4)
    given = say(bob, project, "kind")
    version = trained(project).dataset_version
    ask(project, ["train"] * 5)
    say(bob, project, "kind")
    assert [one.judgment for one in effect.considered(bob, version)] == [one.pk for one in given[:-5:-1]]


def test_what_it_contradicts_most_comes_first_and_leads_back_to_the_comparison(project, bob, asked, bobs):
    given = say(bob, project, "kind")
    trained(project, lambda one: one.prompt_id if "short" in one.text else 0)
    (one,) = told(bob, project)
    found = effect.disagreements(bob, one)
    newest = given[5::-1]  # of train; the last three are held out
    assert [row["assignment"] for row in found] == [
        judgment.assignment_id for judgment in newest[: effect.DISAGREEMENTS_SHOWN]
    ]
    page = bobs()
    assert f"?again={newest[0].assignment_id}" in page
    assert "Where it disagrees with you most" in page


def test_nobody_is_led_to_change_a_held_out_answer(project, bob, asked, bobs):
    given = say(bob, project, "kind")
    held_out = {comparison.prompt_id for comparison in asked[6:]}
    trained(project, lambda one: ("kind" in one.text) != (one.prompt_id in held_out))
    (one,) = told(bob, project)
    assert figures(one.now) == {"train": (6, 1.0), "eval": (3, 0.0)}, "they are counted"
    assert effect.disagreements(bob, one) == []
    page = bobs()
    assert "Where it disagrees with you most" in page and "Which ones is not told" in page
    assert not any(f"?again={judgment.assignment_id}" in page for judgment in given)


# Fresh answers


def test_a_fresh_answer_stands_beside_what_the_person_chose(project, bob, asked, bobs):
    say(bob, project, "kind")
    answer_again(trained(project), "**Fresh** <script>alert(1)</script>")
    (one,) = told(bob, project)
    found = effect.fresh_answers(bob, project.loop_settings.policy, one.answers)
    assert len(found.answers) == effect.PROMPTS_SHOWN
    assert {row["prompt"] for row in found.answers} == {
        comparison.prompt.text for comparison in asked[-effect.PROMPTS_SHOWN :]
    }
    assert all("A kind answer." in row["chosen"] for row in found.answers)
    page = bobs()
    assert "<strong>Fresh</strong>" in page
    assert "<script>alert" not in page


@pytest.mark.parametrize("held", [False, True])
def test_no_fresh_answer_to_a_prompt_about_which_the_person_may_be_asked(project, bob, asked, held):
    say(bob, project, "kind")
    round = trained(project)
    answer_again(round)
    newest = asked[-1].prompt
    pair = [newest.completions.first(), newest.completions.create(text="A new one.", author="policy-1")]
    create_comparison(project, newest, pair)
    if held:
        assert next_for(bob, project)
    (one,) = told(bob, project)
    shown = [row["prompt"] for row in effect.fresh_answers(bob, round.new_policy, one.answers).answers]
    assert len(shown) == effect.PROMPTS_SHOWN
    assert newest.text not in shown


def test_nothing_is_told_of_what_a_person_is_asked_again(project, bob, asked, bobs):
    given = say(bob, project, "kind")
    answer_again(trained(project, likes_short))
    for judgment in given[-effect.DISAGREEMENTS_SHOWN :]:
        repeat_of(judgment)
    again = {judgment.comparison.prompt.text for judgment in given[-effect.DISAGREEMENTS_SHOWN :]}
    others = {judgment.comparison.prompt.text for judgment in given} - again
    (one,) = told(bob, project)
    assert {row["prompt"] for row in effect.disagreements(bob, one)} == others
    fresh = effect.fresh_answers(bob, one.round.new_policy, one.answers)
    assert {row["prompt"] for row in fresh.answers} < others
    for judgment in given[: -effect.DISAGREEMENTS_SHOWN]:
        repeat_of(judgment)
    page = bobs()
    assert "Where is parcel" not in page
    assert "It disagrees with none" not in page, "it does, but nothing is told of it now"


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_nothing_is_told_of_what_a_repeat_may_be_drawn_from(project, bob, monkeypatch, share):
    loop_of(project)
    project.repeat_share = share
    project.save()
    ask(project, ["train"] * 36)
    given = say(bob, project, "kind")
    answer_again(trained(project, likes_short))
    (one,) = told(bob, project)
    monkeypatch.setattr(effect, "DISAGREEMENTS_SHOWN", len(given))
    monkeypatch.setattr(effect, "PROMPTS_SHOWN", len(given))
    shown = {row["prompt"] for row in effect.disagreements(bob, one)}
    assert {
        row["prompt"] for row in effect.fresh_answers(bob, one.round.new_policy, one.answers).answers
    } == shown
    monkeypatch.setattr(repeats, "ANSWERS_BETWEEN", 0)
    monkeypatch.setattr(repeats, "TIME_BETWEEN", timedelta())
    drawn = {judgment.comparison.prompt.text for judgment in repeats.repeatable(bob, project)}
    everything = {judgment.comparison.prompt.text for judgment in given}
    assert 10 < len(drawn) < 26 and len(everything) == 36
    assert shown == (everything - drawn if share else everything)


def test_a_repeat_is_none_of_the_answers_that_are_considered(project, bob, asked, monkeypatch):
    monkeypatch.setattr(effect, "NEWEST_ANSWERS", 3)
    given = say(bob, project, "kind")
    repeat_of(given[0])
    project.repeat_share = 0.2
    monkeypatch.setattr("labeling.assignment._chance", Random(3))
    project.save()
    ask(project, ["train"] * 3)
    later = say(bob, project, "kind")
    while not project.comparisons.filter(reserved_for=bob, closed_at__isnull=False).exists():
        ask(project, ["train"])
        later += say(bob, project, "kind")
    standing = [one.pk for one in later if one.comparison.reserved_for_id is None]
    found = effect.considered(bob, trained(project).dataset_version)
    assert [one.judgment for one in found] == standing[:-4:-1]


def test_a_comparison_that_waits_for_others_hides_nothing_from_who_answered_it(project, bob):
    loop_of(project)
    project.overlap = 2
    project.save()
    ask(project, ["train"])
    say(bob, project, "kind")
    round = trained(project)
    answer_again(round)
    (one,) = told(bob, project)
    assert len(effect.fresh_answers(bob, round.new_policy, one.answers).answers) == 1


def test_what_the_policy_says_is_that_of_the_policy_in_use(project, bob, asked, bobs):
    say(bob, project, "kind")
    answer_again(trained(project), "By the first policy of a round.")
    answer_again(trained(project), "By the second policy of a round.")
    assert "By the second" in bobs()
    LoopSettings.objects.update(policy=Round.objects.get(number=1).new_policy)
    page = bobs()
    assert "By the first" in page and "By the second" not in page


def test_without_a_fresh_answer_the_page_says_why(project, bob, asked, bobs):
    given = say(bob, project, "kind")
    first = trained(project, likes_kind, afterwards="answers")
    assert "The policy in use is still to be asked. Look again later." in bobs()
    Round.objects.update(afterwards="over")
    assert "The policy in use was not asked about your prompts." in bobs()
    answer_again(first)
    for judgment in given:
        repeat_of(judgment)
    assert "about which you are not to be asked again for now" in bobs()
    second = trained(project, likes_kind, outcome="", stage="policy")
    LoopSettings.objects.update(policy=project.loop_settings.first_policy)
    assert "The new policy is asked once it is in use." in bobs()
    Round.objects.filter(pk=second.pk).update(outcome="halted", stage="policy_gate", afterwards="scores")
    assert "The policy in use is still to be asked. Look again later." in bobs()


# The page


def test_prompts_and_answers_carry_the_language_of_the_project(project, bob, asked, bobs):
    say(bob, project, "kind")
    answer_again(trained(project, likes_short))
    assert 'lang=""' in bobs(), "not known"
    project.languages = ["de"]
    project.save()
    page = bobs()
    assert 'lang=""' not in page
    assert page.count('lang="de"') == effect.DISAGREEMENTS_SHOWN + 3 * effect.PROMPTS_SHOWN


def test_it_is_opened_from_ones_own_answers(client, project, bob):
    client.force_login(bob)
    page = client.get(reverse("labeling:mine", args=["support"])).content.decode()
    assert f'href="{reverse("training:effect", args=["support"])}"' in page


def test_without_a_model_it_says_what_will_stand_there(project, bobs):
    page = bobs()
    assert "Your answers have trained nothing yet" in page
    assert "No model is trained in this project so far." in page


def test_while_the_first_round_collects_it_says_when_there_will_be_something(project, bobs):
    settings = loop_of(project)
    Round.objects.create(project=project, number=1, stage="collect", target=9, policy=settings.policy)
    assert "Round 1 is collecting answers. When it has trained" in bobs()


def test_the_newest_round_is_the_headline_and_those_before_stand_below(project, bob, asked, bobs):
    say(bob, project, "kind")
    trained(project, likes_short)
    trained(project, likes_kind)
    page = bobs()
    assert "<h1>Round 2 learned from 6 of your answers</h1>" in page
    assert "Of the 6 choices between two answers that it learned from, 6 are yours." in page
    assert "3 more of your answers were held out" in page
    assert "The reward model before agrees with 0% of the same answers; on 3 of them the two differ." in page
    assert page.count("The reward model before agrees") == 1, "recall is no progress over foresight"
    assert "it lies between 44% and 100%" in page, "of three answers"
    assert "It disagrees with none of these answers" in page
    assert "agrees with 0% of 3 held-out answers (0% to 56%)" in page, "the first round, among those before"


def test_older_rounds_are_a_page_further(project, bob, asked, bobs, monkeypatch):
    monkeypatch.setattr(effect, "OTHER_ROUNDS_SHOWN", 2)
    say(bob, project, "kind")
    for _ in range(5):
        trained(project, likes_kind)
    page = bobs()
    assert "Round 5 learned" in page and "?before=3" in page
    Round.objects.filter(number__in=[4, 5]).update(outcome="cancelled")
    assert "Round 3 learned" in bobs() and "<h3>Round 3</h3>" not in bobs(before="4"), (
        "it stands on the first page"
    )
    Round.objects.update(outcome="published")
    page = bobs(before="3")
    assert "<h3>Round 2</h3>" in page and "<h3>Round 1</h3>" in page
    assert "<h3>Round 3</h3>" not in page and "?before" not in page
    for nonsense in ("x", "9" * 40, "-1"):
        assert "Round 5 learned" in bobs(before=nonsense)


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "", "stage": "policy", "afterwards": "scores"},
        {"outcome": "halted", "stage": "policy", "afterwards": "scores"},
        {"outcome": "cancelled", "stage": "policy", "afterwards": "scores"},
    ],
)
def test_a_round_without_figures_does_not_take_the_place_of_one_that_has_them(
    project, bob, asked, bobs, fields
):
    say(bob, project, "kind")
    trained(project, likes_short)
    trained(project, **fields)
    page = bobs()
    assert "<h1>Round 1 learned from 6 of your answers</h1>" in page
    assert "Where it disagrees with you most" in page
    assert ("Round 2 is training now." in page) is (fields["outcome"] == "")
    assert ("<h3>Round 2</h3>" in page) is (fields["outcome"] != "")


def test_a_project_whose_settings_were_deleted_has_the_page_all_the_same(project, bob, asked, bobs):
    say(bob, project, "kind")
    answer_again(trained(project, likes_kind))
    LoopSettings.objects.all().delete()
    page = bobs()
    assert "Round 1 learned from 6 of your answers" in page
    assert "No model is trained in this project" not in page


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"outcome": "", "stage": "policy"}, "is asked about your answers when the round is over"),
        ({"afterwards": "scores"}, "is still to be asked about your answers"),
        ({"outcome": "halted", "stage": "reward_gate"}, "was not used, so it was not asked"),
        ({"outcome": "halted", "stage": "policy"}, "No policy came of the round"),
        (
            {"outcome": "halted", "stage": "publish", "afterwards": "scores"},
            "is still to be asked about your",
        ),
        ({"outcome": "cancelled", "stage": "policy"}, "The round was cancelled"),
        ({}, "The reward model was not asked about your answers."),
    ],
)
def test_a_reward_model_that_was_not_asked_is_told_with_the_reason(project, bob, asked, bobs, fields, words):
    say(bob, project, "kind")
    trained(project, **fields)
    assert words in bobs()


def test_a_round_before_the_first_answer_learned_from_none(project, alice, bob, asked, bobs):
    say(alice, project, "kind")
    answer_again(trained(project, likes_kind))
    page = bobs()
    assert "Round 1 learned from none of your answers" in page
    assert "Fresh" not in page and "A kind answer." not in page and "A fresh answer." not in page


def test_a_manager_sees_their_own_page_and_nobody_anothers(client, project, alice, bob, asked, bobs):
    say(bob, project, "kind")
    answer_again(trained(project, likes_short))
    assert "Round 1 learned from 6 of your answers" in bobs()
    client.force_login(alice)
    page = client.get(
        reverse("training:effect", args=["support"]) + f"?person={bob.pk}&user=bob"
    ).content.decode()
    assert "learned from none of your answers" in " ".join(page.split())
    assert "Where is parcel" not in page


def test_more_answers_cost_no_more_queries(project, bob, asked, client):
    client.force_login(bob)

    def queries():
        with CaptureQueriesContext(connection) as captured:
            assert client.get(reverse("training:effect", args=["support"])).status_code == 200
        return len(captured)

    say(bob, project, "kind")
    answer_again(trained(project, likes_short))
    few = queries()
    Round.objects.update(number=5)
    ask(project, SPLITS * 3)
    say(bob, project, "kind")
    round = trained(project, likes_short)
    answer_again(round)
    Round.objects.filter(number=5).update(reward=None)
    assert len(effect.considered(bob, round.dataset_version)) == 4 * len(SPLITS)
    assert queries() == few
