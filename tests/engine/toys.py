"""Rewards for toy worlds."""


def share_of_a(prompts, completions):
    return [4 * text.split().count("a") / max(1, len(text.split())) - 1 for text in completions]


def not_a_number(prompts, completions):
    return [float("nan")] * len(completions)
