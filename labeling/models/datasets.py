"""Frozen dataset versions: what a training run names."""

from django.conf import settings
from django.db import models
from django.db.models import Q

from labeling.models.projects import Project
from labeling.models.work import Preference


class DatasetVersion(models.Model):
    """A list of preferences and the files made from them; once the files are named, nothing changes."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, db_index=False, related_name="dataset_versions"
    )
    number = models.PositiveIntegerField()
    filter = models.JSONField(default=dict, blank=True)
    train_file = models.CharField(max_length=200, blank=True)
    eval_file = models.CharField(max_length=200, blank=True)
    train_sha256 = models.CharField(max_length=64, blank=True)
    eval_sha256 = models.CharField(max_length=64, blank=True)
    train_count = models.PositiveBigIntegerField(default=0)
    eval_count = models.PositiveBigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="dataset_number_unique"),
        ]

    def __str__(self) -> str:
        return f"dataset {self.number} of {self.project}"


class DatasetEntry(models.Model):
    version = models.ForeignKey(
        DatasetVersion, on_delete=models.CASCADE, db_index=False, related_name="entries"
    )
    preference = models.ForeignKey(Preference, on_delete=models.RESTRICT, related_name="dataset_entries")
    split = models.CharField(max_length=5)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["version", "preference"], name="entry_once_per_version"),
            models.CheckConstraint(condition=Q(split__in=["train", "eval"]), name="entry_split_known"),
        ]

    def __str__(self) -> str:
        return f"preference {self.preference_id} in version {self.version_id}"
