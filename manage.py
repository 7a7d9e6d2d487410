#!/usr/bin/env python
"""Runs a management command, with the bundled servers up while it runs when no URL names others."""

import os
import signal
import sys

# What needs neither database nor broker does not wait for them.
SERVERLESS = {"help", "version", "--help", "--version", "check", "collectstatic", "spectacular"}


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from django.core.management import execute_from_command_line

    if len(sys.argv) > 1 and sys.argv[1] not in SERVERLESS:
        from config import embedded

        signal.signal(
            signal.SIGTERM, lambda number, frame: sys.exit(128 + number)
        )  # so that what is attached is left
        embedded.attach()
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
