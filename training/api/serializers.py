"""What goes over the wire about training."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from labeling.api.serializers import MAX_ID, Strict
from training import choices, loop, marked
from training.engine.config import METHODS
from training.models import ModelVersion, Round, Run


class NewRunSerializer(Strict):
    """What is chosen is named: versions such as policy-3, a dataset's number, a split of the prompts."""

    method = serializers.ChoiceField(choices=list(METHODS))
    config = serializers.DictField(
        required=False, default=dict, help_text="Settings of the engine; what is not given keeps its default."
    )
    model = serializers.CharField(required=False, help_text="The version to start from.")
    reference_model = serializers.CharField(
        required=False, help_text="The policy that KL is measured against."
    )
    baseline_model = serializers.CharField(
        required=False, help_text="The policy that `evaluate` compares with."
    )
    reward_model = serializers.CharField(required=False, help_text="The judge.")
    held_out_reward_model = serializers.CharField(
        required=False, help_text="Another judge, which is watched and never optimised."
    )
    second_judge_model = serializers.CharField(required=False, help_text="Another judge for `evaluate`.")
    dataset = serializers.IntegerField(required=False, min_value=1, max_value=2**31 - 1)
    prompts = serializers.ChoiceField(required=False, choices=list(choices.SPLITS.items()))
    better_answers = serializers.BooleanField(
        required=False, help_text="Whether `sft` learns from what annotators wrote to training prompts."
    )
    completions_of = serializers.IntegerField(
        required=False, min_value=1, max_value=MAX_ID, help_text="A run that sampled."
    )


class RunSerializer(serializers.ModelSerializer):
    project = serializers.SlugRelatedField("slug", read_only=True)
    model = serializers.SlugRelatedField("name", read_only=True, source="input_model", allow_null=True)
    reward_model = serializers.SlugRelatedField("name", read_only=True, allow_null=True)
    dataset = serializers.SlugRelatedField(
        "number", read_only=True, source="dataset_version", allow_null=True
    )
    round = serializers.SlugRelatedField("number", read_only=True, allow_null=True)
    made = serializers.SerializerMethodField(help_text="The model version that it made.")
    requested_by = serializers.SlugRelatedField("username", read_only=True, allow_null=True)

    class Meta:
        model = Run
        fields = [
            "id",
            "project",
            "method",
            "status",
            "message",
            "phase",
            "progress_done",
            "progress_total",
            "seconds_left",
            "model",
            "reward_model",
            "held_out",
            "dataset",
            "round",
            "made",
            "seed",
            "config",
            "result",
            "code_version",
            "attempts",
            "requested_by",
            "created_at",
            "started_at",
            "finished_at",
        ]
        read_only_fields = fields

    def get_made(self, run: Run) -> str | None:
        version = getattr(run, "model_version", None)
        return version.name if version else None


class MarkedSerializer(serializers.Serializer):
    prompt = serializers.CharField(source="sample.text")
    completion = serializers.CharField(source="sample.completion")
    reward = serializers.FloatField(source="sample.reward")
    held_out_reward = serializers.FloatField(source="sample.held_out_reward", allow_null=True)
    spread = serializers.FloatField(
        source="sample.spread", allow_null=True, help_text="How far the reward model's members are apart."
    )
    reason = serializers.CharField(source="sample.reason", help_text="Why it was marked.")
    comparison = serializers.IntegerField(
        source="comparison.pk", allow_null=True, default=None, help_text="Where it is before annotators."
    )


class MarkedOutcomeSerializer(serializers.Serializer):
    comparisons = serializers.SerializerMethodField(help_text="Made by this call.")
    already = serializers.IntegerField(help_text="Samples that stood in a comparison before.")
    without_partner = serializers.IntegerField(
        source="alone", help_text="Samples whose prompt has no other answer to compare with."
    )
    left_out = serializers.IntegerField(help_text="Samples of held-out prompts, or with nothing to read.")
    detail = serializers.CharField(source="__str__")

    @extend_schema_field(serializers.ListField(child=serializers.IntegerField()))
    def get_comparisons(self, outcome: marked.Outcome) -> list[int]:
        return [comparison.pk for comparison in outcome.comparisons]


class MetricSerializer(serializers.Serializer):
    name = serializers.CharField()
    step = serializers.IntegerField()
    value = serializers.FloatField()


class ModelVersionSerializer(serializers.ModelSerializer):
    parent = serializers.SlugRelatedField("name", read_only=True, allow_null=True)
    run = serializers.PrimaryKeyRelatedField(read_only=True, allow_null=True)
    in_use = serializers.SerializerMethodField(help_text="Whether the next round starts from it.")

    class Meta:
        model = ModelVersion
        fields = ["id", "name", "kind", "sha256", "parent", "run", "in_use", "metrics", "created_at"]
        read_only_fields = fields

    def get_in_use(self, version: ModelVersion) -> bool:
        return version.pk == self.context.get("in_use")


class ModelFileSerializer(serializers.Serializer):
    name = serializers.CharField()
    bytes = serializers.IntegerField()
    url = serializers.URLField()


def accuracy_of(version: ModelVersion | None) -> dict[str, Any]:
    """What a reward model got right of held-out preferences, and on how many."""
    metrics = version.metrics if version else {}
    return {name: metrics.get(name) for name in ("accuracy", "accuracy_interval", "pairs", "prompts")}


class NewRoundSerializer(Strict):
    collect = serializers.BooleanField(
        default=True, help_text="False trains at once, on the answers that are there already."
    )
    seed = serializers.IntegerField(required=False, min_value=0, max_value=2**31 - 1)


class RoundSerializer(serializers.ModelSerializer):
    policy = serializers.SlugRelatedField("name", read_only=True)
    reward = serializers.SlugRelatedField("name", read_only=True, allow_null=True)
    held_out_reward = serializers.SlugRelatedField("name", read_only=True, allow_null=True)
    new_policy = serializers.SlugRelatedField("name", read_only=True, allow_null=True)
    dataset = serializers.SlugRelatedField(
        "number", read_only=True, source="dataset_version", allow_null=True
    )
    judged = serializers.SerializerMethodField(help_text="Comparisons of this round that have their answers.")
    seconds = serializers.SerializerMethodField(help_text="By stage.")
    accuracy = serializers.SerializerMethodField(
        help_text="The reward model's result on held-out preferences."
    )
    held_out_accuracy = serializers.SerializerMethodField(
        help_text="The same of the reward model that the policy does not learn from."
    )
    remark = serializers.SerializerMethodField(
        help_text="Why the round goes on without its held-out reward model; empty where it does not."
    )
    evaluation = serializers.SerializerMethodField(
        help_text="The new policy against the first one, on held-out prompts; `second_` is by the held-out "
        "reward model."
    )

    class Meta:
        model = Round
        fields = [
            "id",
            "number",
            "stage",
            "outcome",
            "message",
            "target",
            "judged",
            "seed",
            "policy",
            "reward",
            "held_out_reward",
            "new_policy",
            "dataset",
            "gates",
            "accuracy",
            "held_out_accuracy",
            "remark",
            "evaluation",
            "seconds",
            "created_at",
            "finished_at",
        ]
        read_only_fields = fields

    def get_judged(self, round: Round) -> int:
        return round.collected if round.collected is not None else loop.progress(round)[0]

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_seconds(self, round: Round) -> dict[str, float]:
        return round.seconds_by_stage()

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_accuracy(self, round: Round) -> dict[str, Any]:
        return accuracy_of(round.reward)

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_held_out_accuracy(self, round: Round) -> dict[str, Any]:
        return accuracy_of(round.held_out_reward)

    def get_remark(self, round: Round) -> str:
        return loop.held_out_remark(round)

    @extend_schema_field(OpenApiTypes.OBJECT)
    def get_evaluation(self, round: Round) -> dict[str, Any]:
        return round.new_policy.metrics.get("evaluation", {}) if round.new_policy else {}
