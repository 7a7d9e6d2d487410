"""A reward that the engine can call in a test: shorter answers are better."""

import itertools
import os
import time

calls = itertools.count(1)


def shorter(prompts, completions):
    """From the tenth call on each takes seconds while the file is there that HOLD names: a run is caught in the middle."""
    began = time.monotonic()
    if next(calls) >= 10:
        while os.path.exists(os.environ.get("HOLD", "")) and time.monotonic() - began < 5:
            time.sleep(0.05)
    return [-len(completion) / 10 for completion in completions]
