"""Rewards for toy worlds."""

import os


def share_of_a(prompts, completions):
    return [4 * text.split().count("a") / max(1, len(text.split())) - 1 for text in completions]


def not_a_number(prompts, completions):
    return [float("nan")] * len(completions)


def share_of_a_written_down(prompts, completions):
    with open(os.environ["SEEN"], "a") as file:
        file.writelines(f"{os.getpid()} {text}\n" for text in completions)
    return share_of_a(prompts, completions)
