"""`manage.py rehearse`: closes the loop on a scratch project and says how far it came."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from config.supervisor import running_installation
from training.engine.config import EngineError
from training.rehearsal import Rehearsal, RehearsalFailed


class Command(BaseCommand):
    help = (
        "Rehearse the whole loop on a scratch project with simulated annotators; prints one JSON line last."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--rounds", type=int, default=2, help="rounds to close (default 2)")
        parser.add_argument(
            "--judgments", type=int, default=400, help="answers given in each round (default 400)"
        )
        parser.add_argument(
            "--seed", type=int, default=1, help="seed of annotators, sampling and training (default 1)"
        )
        parser.add_argument(
            "--annotators", type=int, default=4, help="simulated people at the API at once (default 4)"
        )
        parser.add_argument(
            "--policy", default="", help="first policy: a folder or hub name (default: the demo policy)"
        )
        parser.add_argument(
            "--method",
            choices=["ppo", "grpo", "rloo", "dpo"],
            default="ppo",
            help="how a round improves its policy (default ppo)",
        )
        parser.add_argument("--prompts", type=Path, help="prompts as JSON Lines (default: the demo's)")
        parser.add_argument(
            "--lenient",
            action="store_true",
            help="let the gates measure and refuse nothing, for a model that is only to get through",
        )
        parser.add_argument("--report", type=Path, help="also write the report to this file, indented")

    def handle(self, **options: Any) -> None:
        for name in ("rounds", "judgments", "annotators"):
            if options[name] < 1:
                raise CommandError(f"--{name} is {options[name]}; it takes 1 or more")
        call_command("migrate", verbosity=0)
        with ExitStack() as stack:
            address = stack.enter_context(running_installation(self.say))
            rehearsal = Rehearsal(
                address, options["rounds"], options["judgments"], options["seed"], options["annotators"],
                options["policy"], options["prompts"], options["lenient"], options["method"], self.say,
            )  # fmt: skip
            try:
                outcome = rehearsal.run()
            except (RehearsalFailed, EngineError) as error:
                raise CommandError(str(error)) from error
        if options["report"]:
            options["report"].write_text(json.dumps(outcome, indent=2) + "\n")
        samples = [row.pop("samples") for row in outcome["rounds"]][-1]
        for sample in samples:
            self.say(f"\n  {sample['prompt']}\n    before: {sample['before']}\n    after:  {sample['after']}")
        self.stdout.write(json.dumps(outcome))

    def say(self, line: str) -> None:
        print(line, file=sys.stdout, flush=True)
