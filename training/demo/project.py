"""Makes a project on the demo task: prompts, the first policy, and settings at which it learns."""

from pathlib import Path

from django.conf import settings
from django.db import transaction

from labeling.imports import import_prompts
from labeling.models import Project, User
from labeling.projects import create_project
from training import loop
from training.demo import recipe

HERE = Path(__file__).resolve().parent
# Round 1 compares samples of the first policy. From round 2 on two thirds of the pairs hold one of it beside
# one of the policy in use: pairs of the new policy alone are so much alike that people could not tell them apart.
LOOP = {
    "comparisons_per_round": 200,
    "candidates_per_prompt": 3,
    "first_policy_share": 0.34,
    "eval_share": 0.25,
    "kl_budget_nats": 15.0,
    "start_from_first": True,
}
GUIDELINES = """\
You read a customer's message and two answers. Choose the answer that you would rather get as that customer.

1. **Does it help?** The better answer names a step that settles this very matter.
2. **Is it about this matter?** An answer to another question is worth little, however kind.
3. **Is it polite?** Warm beats curt, and curt beats rude.
4. **Is it as long as it needs to be?** Rambling and repetition count against it.

If you cannot tell them apart, say *tie*. If neither could be sent to a customer, say *both bad*.
"""


def make_project(
    slug: str, name: str, manager: User, policy: str = "", prompts: Path | None = None
) -> Project:
    """A project that can start its first round. policy: folder or hub name; prompts: a JSONL file."""
    policy = policy or settings.POLICY_MODEL
    with transaction.atomic():
        project = create_project(name, manager, slug, guidelines=GUIDELINES, languages=["en"])
        import_prompts(prompts or HERE / "prompts.jsonl", project)
        loop.create_loop(project, policy)
        loop_settings = project.loop_settings
        for field, value in LOOP.items():
            setattr(loop_settings, field, value)
        loop_settings.overrides = {
            "generate": recipe.GENERATE, "reward": recipe.REWARD, "ppo": recipe.PPO, "grpo": recipe.GRPO, "rloo": recipe.RLOO, "dpo": recipe.DPO, "evaluate": recipe.EVALUATE,
        }  # fmt: skip
        loop_settings.save()
    return project
