"""What goes over the wire. Inputs refuse what they do not know; outputs name nobody's model to annotators."""

from typing import Any

from rest_framework import serializers

from labeling.answers import MAX_EDIT_LENGTH, MAX_REASON_LENGTH
from labeling.models import Assignment, Judgment, Membership

MAX_ROWS = 1000
MAX_ID = 2**63 - 1
REPEAT_OF = (
    "The comparison that is asked again of the one person who judged it; the verdict on it trains nothing."
)
REPEAT_OR_0 = (
    "The comparison that was asked again; 0 for none. Of repeats only better answers become preferences."
)


class Strict(serializers.Serializer):
    """Refuses fields that it does not have, so that a misspelt one is not silently lost."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := set(data) - set(self.fields)):
            raise serializers.ValidationError({str(name): ["is not a field here"] for name in unknown})
        return super().to_internal_value(data)


class ErrorSerializer(serializers.Serializer):
    detail = serializers.CharField(help_text="What is wrong, in a sentence.")
    fields = serializers.DictField(
        child=serializers.ListField(child=serializers.CharField()), required=False, help_text="By field."
    )


class MessageSerializer(serializers.Serializer):
    role = serializers.ChoiceField(choices=["system", "user", "assistant"])
    content = serializers.CharField()


class ProjectSerializer(serializers.Serializer):
    slug = serializers.SlugField()
    name = serializers.CharField()
    guidelines = serializers.CharField(help_text="Markdown.")
    role = serializers.ChoiceField(choices=Membership.Role.choices, help_text="Your role.")
    overlap = serializers.IntegerField(help_text="How many people judge each new comparison.")
    answers_per_comparison = serializers.IntegerField(
        help_text="How many answers stand side by side in comparisons that the loop makes."
    )
    lease_seconds = serializers.IntegerField(help_text="How long a comparison stays reserved.")
    strengths = serializers.BooleanField(help_text="Whether an answer to a pair says how much better.")
    ties = serializers.BooleanField(help_text="Whether the verdict tie is offered.")
    all_bad = serializers.BooleanField(help_text="Whether the verdict all_bad is offered.")
    all_good = serializers.BooleanField(help_text="Whether the verdict all_good is offered.")
    partial_rankings = serializers.BooleanField(help_text="Whether a ranking may leave answers out.")
    criteria = serializers.ListField(child=serializers.CharField(), help_text="What each answer is rated by.")
    reason_tags = serializers.ListField(child=serializers.CharField(), help_text="Reasons to pick from.")
    reason_required = serializers.BooleanField(help_text="Whether every answer needs a tag or a comment.")
    comment_required = serializers.BooleanField(
        help_text="Whether every answer needs a comment, whatever tags it has."
    )
    edits = serializers.BooleanField(help_text="Whether a better answer may be written.")
    languages = serializers.ListField(
        child=serializers.CharField(), help_text="That its texts are written in; none: not said."
    )
    qualification = serializers.BooleanField(
        help_text="Whether annotators go through a qualification round, in the browser, before their first comparison."
    )
    qualification_share = serializers.FloatField(help_text="Which share of its questions has to be right.")
    qualification_attempts = serializers.IntegerField(help_text="How often a person may try.")
    repeat_share = serializers.FloatField(
        help_text="Which share of a person's comparisons are earlier ones, asked again: 0 to 0.2."
    )


class PromptSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    prompt = MessageSerializer(many=True, source="messages")
    external_id = serializers.CharField(allow_null=True)
    tags = serializers.ListField(child=serializers.CharField())
    split = serializers.ChoiceField(choices=["train", "eval"])
    created_at = serializers.DateTimeField()


class NewPromptsSerializer(Strict):
    """Each row: {prompt: text or list of {role, content}, id?, tags?}."""

    prompts = serializers.ListField(child=serializers.JSONField(), min_length=1, max_length=MAX_ROWS)


class AddedSerializer(serializers.Serializer):
    prompts_added = serializers.IntegerField()
    comparisons_added = serializers.IntegerField()
    judgments_added = serializers.IntegerField()
    present = serializers.IntegerField(help_text="Rows that said nothing new.")
    ids = serializers.ListField(child=serializers.IntegerField(), help_text="Of the rows sent, in order.")


class NewComparisonsSerializer(Strict):
    """Each row: {prompt, completions: [{text, author}, ...], overlap?, priority?}, to be judged by people;
    or, judged already, {prompt, chosen, rejected, strength?}."""

    comparisons = serializers.ListField(child=serializers.JSONField(), min_length=1, max_length=MAX_ROWS)


class CandidateSerializer(serializers.Serializer):
    position = serializers.IntegerField()
    completion = serializers.IntegerField(source="completion_id")
    text = serializers.CharField(source="completion.text")
    author = serializers.CharField(source="completion.author")


class ComparisonSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    prompt = MessageSerializer(many=True, source="prompt.messages")
    prompt_id = serializers.IntegerField()
    candidates = CandidateSerializer(many=True)
    overlap = serializers.IntegerField()
    priority = serializers.IntegerField()
    repeat_of = serializers.IntegerField(
        source="repeats.comparison_id", allow_null=True, default=None, help_text=REPEAT_OF
    )
    created_at = serializers.DateTimeField()
    closed_at = serializers.DateTimeField(allow_null=True)


class HoldingSerializer(Strict):
    holding = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=MAX_ID),
        default=list,
        max_length=100,
        help_text="Ids of the assignments that you show or keep ready already.",
    )


class ShownCandidateSerializer(serializers.Serializer):
    side = serializers.IntegerField(help_text="Place on screen, from 0.")
    text = serializers.CharField()


class AssignmentSerializer(serializers.Serializer):
    """What an annotator may know: never who wrote what, nor anything that would give it away."""

    id = serializers.IntegerField()
    comparison = serializers.IntegerField(source="comparison_id")
    prompt = MessageSerializer(many=True, source="comparison.prompt.messages")
    candidates = serializers.SerializerMethodField(help_text="In the order in which to show them.")
    leased_until = serializers.DateTimeField()
    outcome = serializers.CharField()

    def get_candidates(self, assignment: Assignment) -> list[dict[str, Any]]:
        rows = assignment.comparison.candidates.select_related("completion")
        texts = {row.position: row.completion.text for row in rows}
        shown = ({"side": side, "text": texts[place]} for side, place in enumerate(assignment.sides))
        return ShownCandidateSerializer(shown, many=True).data


class SecondsField(serializers.FloatField):
    def to_internal_value(self, data: Any) -> float:
        try:
            return super().to_internal_value(data)
        except OverflowError:  # a whole number beyond what a float reaches
            self.fail("invalid")


class BetterSerializer(Strict):
    side = serializers.IntegerField(
        min_value=0, help_text="Place on screen of the answer that it starts from."
    )
    text = serializers.CharField(trim_whitespace=False, max_length=MAX_EDIT_LENGTH)


class AnswerSerializer(Strict):
    verdict = serializers.ChoiceField(choices=Judgment.Verdict.choices)
    preferred_side = serializers.IntegerField(
        min_value=0, max_value=1, required=False, help_text="Of two: the place on screen of the better one."
    )
    ranking_sides = serializers.JSONField(
        required=False, help_text="Places on screen, best first, ties in a list of their own: [2, [0, 1]]."
    )
    strength = serializers.IntegerField(
        min_value=1,
        max_value=3,
        allow_null=True,
        default=None,
        help_text="1 slightly, 2 clearly, 3 much better.",
    )
    reason = serializers.CharField(
        default="",
        allow_blank=True,
        trim_whitespace=False,
        max_length=MAX_REASON_LENGTH,
        help_text="A comment; needed where the project has comment_required.",
    )
    reason_tags = serializers.ListField(
        child=serializers.CharField(), default=list, help_text="Some of the project's reason_tags."
    )
    rating_sides = serializers.JSONField(
        required=False,
        help_text="Of each of the project's criteria a rating from 1 to 5 of each answer as shown: "
        '{"honesty": [4, 2]}.',
    )
    edit = BetterSerializer(required=False, help_text="A better answer, where the project takes them.")
    client_key = serializers.UUIDField(
        help_text="A new UUID for each answer; the same when sending it again."
    )
    seconds_spent = SecondsField(min_value=0, allow_null=True, default=None)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        side = attrs.pop("preferred_side", None)
        if side is not None and "ranking_sides" in attrs:
            raise serializers.ValidationError(
                {"ranking_sides": ["says the same as preferred_side; send one"]}
            )
        if side is not None:
            attrs["ranking_sides"] = [[side], [1 - side]]
        return attrs


class JudgmentSerializer(serializers.Serializer):
    """The receipt of an answer."""

    id = serializers.IntegerField()
    assignment = serializers.IntegerField(source="assignment_id")
    comparison = serializers.IntegerField(source="comparison_id")
    revision = serializers.IntegerField()
    is_current = serializers.BooleanField()
    verdict = serializers.ChoiceField(choices=Judgment.Verdict.choices)
    ranking_sides = serializers.SerializerMethodField(help_text="Places on screen, best first.")
    strength = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField()
    reason_tags = serializers.ListField(child=serializers.CharField())
    rating_sides = serializers.SerializerMethodField(help_text="By criterion, in the order shown.")
    edit = serializers.SerializerMethodField(help_text="The better answer that came with it.")
    client_key = serializers.UUIDField()
    created_at = serializers.DateTimeField()

    def get_ranking_sides(self, judgment: Judgment) -> list[list[int]] | None:
        side_of = {position: side for side, position in enumerate(judgment.assignment.sides)}
        ranking = judgment.ranking
        return ranking and [sorted(side_of[position] for position in group) for group in ranking]

    def get_rating_sides(self, judgment: Judgment) -> dict[str, list[int]]:
        sides = judgment.assignment.sides
        return {name: [given[position] for position in sides] for name, given in judgment.ratings.items()}

    def get_edit(self, judgment: Judgment) -> str | None:
        return edited_text(judgment)


class ReviewedJudgmentSerializer(serializers.Serializer):
    """A judgment as managers and reviewers read it."""

    id = serializers.IntegerField()
    comparison = serializers.IntegerField(source="comparison_id")
    annotator = serializers.CharField(source="pseudonym", help_text="A pseudonym.")
    revision = serializers.IntegerField()
    verdict = serializers.ChoiceField(choices=Judgment.Verdict.choices)
    ranking = serializers.ListField(
        child=serializers.ListField(child=serializers.IntegerField()),
        allow_null=True,
        help_text="Candidate positions, best first.",
    )
    sides = serializers.ListField(
        child=serializers.IntegerField(), source="assignment.sides", help_text="Positions as shown."
    )
    strength = serializers.IntegerField(allow_null=True)
    reason = serializers.CharField()
    reason_tags = serializers.ListField(child=serializers.CharField())
    ratings = serializers.DictField(
        child=serializers.ListField(child=serializers.IntegerField()), help_text="By candidate positions."
    )
    edit = serializers.SerializerMethodField(help_text="The better answer that came with it.")
    guidelines = serializers.IntegerField(source="guidelines_number", help_text="Number of the guidelines.")
    repeat_of = serializers.IntegerField(
        source="comparison.repeats.comparison_id", allow_null=True, default=None, help_text=REPEAT_OF
    )
    seconds_spent = serializers.FloatField(allow_null=True)
    created_at = serializers.DateTimeField()

    def get_edit(self, judgment: Judgment) -> str | None:
        return edited_text(judgment)


def edited_text(judgment: Judgment) -> str | None:
    """The better answer that came with a judgment; its edit is read with it."""
    edit = getattr(judgment, "edit", None)
    return edit.completion.text if edit else None


class SkipSerializer(Strict):
    reason = serializers.CharField(max_length=200)
    seconds_spent = SecondsField(min_value=0, allow_null=True, default=None)


class FlagSerializer(Strict):
    reason = serializers.CharField(max_length=200)
    text = serializers.CharField(max_length=MAX_REASON_LENGTH, default="", allow_blank=True)
    seconds_spent = SecondsField(min_value=0, allow_null=True, default=None)


class LeaseSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    leased_until = serializers.DateTimeField()
    outcome = serializers.CharField()


class DatasetSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    project = serializers.SlugField(source="project.slug")
    number = serializers.IntegerField()
    filter = serializers.JSONField()
    train_count = serializers.IntegerField()
    eval_count = serializers.IntegerField()
    train_sha256 = serializers.CharField()
    eval_sha256 = serializers.CharField()
    created_at = serializers.DateTimeField()


class FilterSerializer(Strict):
    """Which of the project's current preferences; none given: all of them."""

    since = serializers.DateTimeField(required=False, help_text="Judged at this time or later.")
    until = serializers.DateTimeField(required=False, help_text="Judged before this time.")
    ties = serializers.ChoiceField(choices=["include", "exclude"], required=False)
    split = serializers.ChoiceField(choices=["train", "eval"], required=False)
    tags = serializers.ListField(child=serializers.CharField(), required=False)
    authors = serializers.ListField(child=serializers.CharField(), required=False)
    annotators = serializers.ListField(child=serializers.CharField(), required=False, help_text="Pseudonyms.")


class FreezeSerializer(Strict):
    filter = FilterSerializer(default=dict)


class PreferenceSerializer(serializers.Serializer):
    """A line of the stream."""

    id = serializers.IntegerField()
    prompt = MessageSerializer(many=True)
    chosen = serializers.CharField()
    rejected = serializers.CharField()
    tie = serializers.BooleanField(help_text="Both are meant alike; their order means nothing.")
    both_bad = serializers.BooleanField()
    both_good = serializers.BooleanField()
    strength = serializers.IntegerField(help_text="0 tie, 1 slightly or not said, 2 clearly, 3 much better.")
    weight = serializers.FloatField(help_text="The pairs of one judgment weigh 1 together; an edit's 1.")
    annotator = serializers.CharField(help_text="A pseudonym.")
    chosen_author = serializers.CharField()
    rejected_author = serializers.CharField()
    chosen_side = serializers.IntegerField(
        help_text="Its place on screen; -1 for a better answer, not shown."
    )
    rejected_side = serializers.IntegerField()
    criteria = serializers.DictField(
        child=serializers.ListField(child=serializers.IntegerField(allow_null=True)),
        help_text="By criterion the ratings of chosen and rejected, 1 to 5.",
    )
    reason = serializers.CharField()
    reason_tags = serializers.ListField(child=serializers.CharField())
    seconds_spent = serializers.FloatField(help_text="0 where not known.")
    judged_at = serializers.DateTimeField()
    guidelines = serializers.IntegerField(help_text="Number of the guidelines that held; 0 where none did.")
    prompt_id = serializers.IntegerField()
    split = serializers.ChoiceField(choices=["train", "eval"])
    comparison = serializers.IntegerField()
    judgment = serializers.IntegerField()
    repeat_of = serializers.IntegerField(help_text=REPEAT_OR_0)
    dataset_version = serializers.IntegerField(help_text="The latest frozen version that has it; 0 for none.")


class PutAsideSerializer(serializers.Serializer):
    """A comparison that somebody skipped or reported."""

    id = serializers.IntegerField()
    outcome = serializers.ChoiceField(choices=Assignment.PUT_ASIDE)
    reason = serializers.CharField()
    text = serializers.CharField(help_text="What the person wrote beside it.")
    annotator = serializers.CharField(help_text="A pseudonym.")
    at = serializers.DateTimeField()
    seconds_spent = serializers.FloatField(help_text="0 where not known.")
    sides = serializers.ListField(child=serializers.IntegerField(), help_text="Positions as shown.")
    handling = serializers.ChoiceField(
        choices=Assignment.Handling.choices,
        help_text="What a manager decided on a report; empty while it waits.",
    )
    prompt = MessageSerializer(many=True)
    completions = serializers.ListField(child=serializers.CharField(), help_text="By position.")
    prompt_id = serializers.IntegerField()
    split = serializers.ChoiceField(choices=["train", "eval"])
    comparison = serializers.IntegerField()
    repeat_of = serializers.IntegerField(help_text=REPEAT_OR_0)


class DemonstrationSerializer(serializers.Serializer):
    """A better answer that a person wrote."""

    id = serializers.IntegerField()
    prompt = MessageSerializer(many=True)
    completion = serializers.CharField(help_text="The better answer.")
    original = serializers.CharField(help_text="The answer that it starts from.")
    annotator = serializers.CharField(help_text="A pseudonym.")
    original_author = serializers.CharField()
    original_side = serializers.IntegerField(help_text="Its place on screen.")
    seconds_spent = serializers.FloatField(help_text="0 where not known.")
    written_at = serializers.DateTimeField()
    prompt_id = serializers.IntegerField()
    split = serializers.ChoiceField(choices=["train", "eval"])
    comparison = serializers.IntegerField()
    judgment = serializers.IntegerField()
    repeat_of = serializers.IntegerField(help_text=REPEAT_OR_0)


class JudgmentLineSerializer(serializers.Serializer):
    """All that one answer says. Candidates go by their positions."""

    id = serializers.IntegerField()
    prompt = MessageSerializer(many=True)
    completions = serializers.ListField(child=serializers.CharField(), help_text="By position.")
    authors = serializers.ListField(child=serializers.CharField(), help_text="By position.")
    verdict = serializers.ChoiceField(choices=Judgment.Verdict.choices)
    ranking = serializers.ListField(
        child=serializers.ListField(child=serializers.IntegerField()),
        help_text="Positions, best first, ties grouped; a partial one leaves some out. Empty where nothing is in order.",
    )
    strength = serializers.IntegerField(help_text="0 not said, 1 slightly, 2 clearly, 3 much better.")
    reason = serializers.CharField()
    reason_tags = serializers.ListField(child=serializers.CharField())
    ratings = serializers.DictField(
        child=serializers.ListField(child=serializers.IntegerField()),
        help_text="By criterion, 1 to 5 by position; empty where it was not asked for.",
    )
    edit = serializers.CharField(help_text="The better answer that came with it.")
    annotator = serializers.CharField(help_text="A pseudonym.")
    sides = serializers.ListField(child=serializers.IntegerField(), help_text="Positions as shown.")
    seconds_spent = serializers.FloatField(help_text="0 where not known.")
    judged_at = serializers.DateTimeField()
    revision = serializers.IntegerField()
    guidelines = serializers.IntegerField(help_text="Number of the guidelines that held; 0 where none did.")
    prompt_id = serializers.IntegerField()
    split = serializers.ChoiceField(choices=["train", "eval"])
    comparison = serializers.IntegerField()
    repeat_of = serializers.IntegerField(help_text="The comparison that was asked again; 0 for none.")


class QualificationLineSerializer(serializers.Serializer):
    """What a person said to a question of the qualification round. Answers go by their letters."""

    id = serializers.IntegerField()
    question = serializers.IntegerField()
    prompt = MessageSerializer(many=True)
    completions = serializers.ListField(child=serializers.CharField(), help_text="The answers, a first.")
    known = serializers.ListField(child=serializers.CharField(), help_text="What counts as right.")
    said = serializers.CharField(help_text="The letter of the best answer, tie, all_bad or all_good.")
    right = serializers.BooleanField()
    strength = serializers.IntegerField(help_text="0 not said, 1 slightly, 2 clearly, 3 much better.")
    annotator = serializers.CharField(help_text="A pseudonym.")
    attempt = serializers.IntegerField(help_text="Of the person, from 1.")
    sides = serializers.ListField(child=serializers.IntegerField(), help_text="The answers as shown.")
    seconds_spent = serializers.FloatField(help_text="0 where not known.")
    answered_at = serializers.DateTimeField()
