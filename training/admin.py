"""For operators: to look, and to mend the loop's settings. Runs and rounds are changed by their own acts."""

from __future__ import annotations

from django.contrib import admin
from django.http import HttpRequest

from training.models import LoopSettings, ModelVersion, Promotion, Round, Run, Schedule


class ReadOnly(admin.ModelAdmin):
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(Run)
class RunAdmin(ReadOnly):
    list_display = ["id", "project", "method", "status", "created_at", "heartbeat_at", "attempts", "message"]
    list_filter = ["status", "method"]
    list_select_related = ["project"]


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnly):
    list_display = ["name", "project", "kind", "run", "parent", "sha256", "created_at"]
    list_filter = ["kind"]
    list_select_related = ["project", "run", "parent"]


@admin.register(Round)
class RoundAdmin(ReadOnly):
    list_display = ["number", "project", "stage", "outcome", "target", "message", "created_at"]
    list_filter = ["outcome", "stage"]
    list_select_related = ["project"]


@admin.register(Promotion)
class PromotionAdmin(ReadOnly):
    list_display = ["version", "project", "previous", "promoted_by", "round", "created_at"]
    list_select_related = ["version", "project", "previous", "promoted_by", "round"]


@admin.register(LoopSettings)
class LoopSettingsAdmin(admin.ModelAdmin):
    list_display = ["project", "policy", "comparisons_per_round", "paused"]
    list_select_related = ["project", "policy"]
    readonly_fields = ["project", "first_policy", "policy"]

    def has_delete_permission(self, request: HttpRequest, obj: LoopSettings | None = None) -> bool:
        """Without them the rounds of the project could not go on."""
        wanted = super().has_delete_permission(request, obj)
        return wanted and not (obj and obj.project.rounds.exists())


@admin.register(Schedule)
class ScheduleAdmin(ReadOnly):
    list_display = ["project", "every_preferences", "periodic_task", "enabled", "created_by"]
    list_select_related = ["project", "periodic_task", "created_by"]
