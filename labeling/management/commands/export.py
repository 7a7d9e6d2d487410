import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, BinaryIO

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from labeling.exports import STREAMS
from labeling.management.commands._importing import find_project

# What may be asked for beside `after`.
FILTERS = {"preferences": ("ties", "split", "since", "until"), "demonstrations": ("split",)}


class Command(BaseCommand):
    help = "Write what a project's people said as JSON lines, to a file or to standard output."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--project", required=True, help="the project's name in addresses")
        parser.add_argument(
            "--what",
            choices=list(STREAMS),
            default="preferences",
            help="the current preferences (default), all that standing answers say, better answers, what was skipped or "
            "reported, or what was said in the qualification round",
        )
        parser.add_argument("--output", type=Path, help="file to write (default: standard output)")
        parser.add_argument("--after", type=int, default=0, help="id of the last row that you have")
        parser.add_argument("--ties", choices=["include", "exclude"], help="default: exclude")
        parser.add_argument("--split", choices=["train", "eval"])
        parser.add_argument("--since", help="judged at this time or later (ISO 8601 with a time zone)")
        parser.add_argument("--until", help="judged before this time")

    def handle(
        self, *args: Any, project: str, what: str, output: Path | None, after: int, **options: Any
    ) -> None:
        filters = {name: options[name] for name in FILTERS["preferences"] if options[name] is not None}
        if strange := sorted(filters.keys() - FILTERS.get(what, ())):
            raise CommandError(f"--{strange[0]} does not go with {what}.")
        try:
            lines = STREAMS[what](find_project(project), after, **filters)
        except ValidationError as error:
            problems = [f"--{name} {reasons[0]}" for name, reasons in error.message_dict.items()]
            raise CommandError("; ".join(problems)) from None
        if output is None:
            self._write(lines, sys.stdout.buffer)
            return
        try:
            with output.open("wb") as file:
                count = self._write(lines, file)
        except OSError as error:
            raise CommandError(f"{output} cannot be written: {error.strerror}.") from None
        self.stdout.write(f"Lines written: {count}.")

    def _write(self, lines: Any, file: BinaryIO) -> int:
        count = 0
        for line in lines:
            file.write(line)
            count += 1
        return count
