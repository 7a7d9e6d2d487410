"""A reward that the engine can call in a test: shorter answers are better."""


def shorter(prompts, completions):
    return [-len(completion) / 10 for completion in completions]
