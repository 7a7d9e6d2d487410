"""Starts everything on this machine, and stops it all on Ctrl-C."""

from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import embedded
from config.supervisor import Child, Supervisor, beat, celery_worker, web_address, web_server
from training.engine.config import EngineError


class Command(BaseCommand):
    help = "Start web server, workers and scheduler (and the bundled PostgreSQL and Redis), and restart what dies."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--demo", action="store_true", help="first make the demo project, where it is not there"
        )
        parser.add_argument(
            "--no-gpu-worker", action="store_true", help="leave training to workers elsewhere"
        )

    def handle(self, **options: Any) -> None:
        call_command("migrate", verbosity=0)
        supervisor = Supervisor(self.children(options), self.say, keep=embedded.keep_alive)
        if options["demo"]:
            self.say(self.demo_notice())  # at once: nothing that fails later may keep the passwords back
        address = web_address()
        supervisor.run(
            ready_address=f"{address}health/",
            ready_message=f"\n  Tastemaker answers on {address}\n  Ctrl-C stops it.\n",
        )

    def say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()  # who started it through make or systemd reads it now

    def children(self, options: dict[str, Any]) -> list[Child]:
        children = [
            web_server(settings.HOST, settings.PORT),
            celery_worker("default", concurrency=2),
            beat(),
        ]
        if not options["no_gpu_worker"]:
            children.insert(2, celery_worker("gpu", concurrency=1))
        return children

    def demo_notice(self) -> str:
        from config.demo import make_demo_project

        try:
            passwords = make_demo_project()
        except (OSError, ValueError, EngineError) as error:
            raise CommandError(f"The demo project could not be made: {error}") from error
        lines = [f"    {name:<10} {password}" for name, password in passwords.items()]
        return "\n".join(["", "  First-run accounts, shown once:", *lines]) if lines else ""
