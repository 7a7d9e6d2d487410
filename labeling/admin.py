"""For operators who look into an installation. What people said can be read here, never edited."""

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.db.models import Model
from django.http import HttpRequest

from labeling.models import (
    Assignment,
    Candidate,
    Comparison,
    Completion,
    DatasetVersion,
    Judgment,
    Membership,
    Preference,
    Project,
    Prompt,
    User,
)


@admin.register(User)
class PersonAdmin(UserAdmin):
    """An account that was ever in a project is switched off, not deleted: it says who said what."""

    filter_horizontal = ()  # whose script labels its parts in a way that no screen reader may read
    readonly_fields = ("last_login", "date_joined")

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        unused = obj is not None and not obj.memberships.exists()
        return unused and super().has_delete_permission(request, obj)


class ReadOnly(admin.ModelAdmin):
    """Rows that the database itself keeps from changing. Tables grow large: no counts, no filters by scan."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class MembershipInline(admin.TabularInline):
    """Who is there stays as they are: the page People keeps a manager in every project. A manager can be added here."""

    model = Membership
    extra = 0
    fields = ("user", "role", "pseudonym", "created_at", "left_at")
    raw_id_fields = ("user",)
    readonly_fields = ("pseudonym", "created_at", "left_at")
    can_delete = False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Project)
class ProjectAdmin(admin.ModelAdmin):
    """The settings that make no versions; a project is made on the home page, with its first manager."""

    list_display = ("name", "slug", "overlap", "lease_seconds", "created_at")
    search_fields = ("name", "slug")
    raw_id_fields = ("created_by",)
    readonly_fields = ("slug", "guidelines", "guidelines_number")
    inlines = (MembershipInline,)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Prompt)
class PromptAdmin(ReadOnly):
    list_display = ("id", "__str__", "split", "tags", "external_id", "created_at")
    list_select_related = ("project",)
    search_fields = ("=id", "=external_id")


@admin.register(Completion)
class CompletionAdmin(ReadOnly):
    list_display = ("id", "__str__", "author", "created_at")
    search_fields = ("=id",)


class CandidateInline(admin.TabularInline):
    model = Candidate
    extra = 0
    readonly_fields = ("position", "completion")
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Comparison)
class ComparisonAdmin(ReadOnly):
    list_display = ("id", "project", "prompt", "overlap", "priority", "created_at", "closed_at")
    list_select_related = ("project", "prompt")
    search_fields = ("=id",)
    inlines = (CandidateInline,)


@admin.register(Assignment)
class AssignmentAdmin(ReadOnly):
    list_display = ("id", "comparison", "annotator", "slot", "outcome", "outcome_reason", "leased_until")
    list_select_related = ("comparison", "annotator")
    search_fields = ("=id", "=comparison__id", "=annotator__username")


@admin.register(Judgment)
class JudgmentAdmin(ReadOnly):
    list_display = (
        "id",
        "comparison",
        "annotator",
        "verdict",
        "strength",
        "revision",
        "is_current",
        "created_at",
    )
    list_select_related = ("comparison", "annotator")
    search_fields = ("=id", "=comparison__id", "=annotator__username")


@admin.register(Preference)
class PreferenceAdmin(ReadOnly):
    list_display = ("id", "project", "judgment", "chosen", "rejected", "tie", "strength", "weight")
    list_select_related = ("project", "judgment", "chosen", "rejected")
    search_fields = ("=id", "=judgment__id")


@admin.register(DatasetVersion)
class DatasetVersionAdmin(ReadOnly):
    list_display = ("project", "number", "train_count", "eval_count", "created_at", "created_by")
    list_select_related = ("project", "created_by")
