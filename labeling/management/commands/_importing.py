"""What the two import commands have in common."""

from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from labeling.imports import ImportRefused, ImportReport
from labeling.models import Project


def find_project(slug: str) -> Project:
    try:
        return Project.objects.get(slug=slug)
    except Project.DoesNotExist:
        known = ", ".join(Project.objects.order_by("slug").values_list("slug", flat=True)[:20]) or "none yet"
        raise CommandError(f"There is no project {slug}. Projects: {known}.") from None


class ImportCommand(BaseCommand):
    """FILE --project SLUG [--skip-bad]"""

    act: Callable[..., ImportReport]
    summary: Callable[[ImportReport], str]

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="JSON lines, in UTF-8")
        parser.add_argument("--project", required=True, help="the project's name in addresses")
        parser.add_argument(
            "--skip-bad", action="store_true", help="import the good lines even if others are bad"
        )

    def handle(self, *args: Any, file: Path, project: str, skip_bad: bool, **options: Any) -> None:
        target = find_project(project)
        try:
            report = type(self).act(file, target, skip_bad=skip_bad)
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}.") from None
        except ImportRefused as refusal:
            raise CommandError(f"{refusal}\nNothing was imported. Bad lines: {refusal.report.bad}.") from None
        for problem in report.problems:
            self.stderr.write(f"left out: {problem}")
        self.stdout.write(self.summary(report))
