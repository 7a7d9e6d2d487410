"""What the loop may not do: functions from figures to checks, each in words a manager can act on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One figure held against what is needed of it."""

    name: str
    passed: bool
    figure: str
    needed: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def reward_checks(result: Mapping[str, Any], minimum_bound: float, minimum_pairs: int) -> list[Check]:
    """May a policy optimise this reward model? Judged on preferences over prompts that it never saw."""
    pairs = result.get("pairs") or 0
    more = "Start another round: its answers add to these, and the reward model is trained on all of them."
    return [
        Check(
            "held-out pairs",
            pairs >= minimum_pairs,
            f"{pairs}",
            f"at least {minimum_pairs}",
            f"Too few preferences on held-out prompts to judge the reward model by. {more}",
        ),
        _above(
            "held-out accuracy",
            result.get("accuracy"),
            result.get("accuracy_interval"),
            minimum_bound,
            f"On prompts it never saw it may be no better than chance. {more} If answers disagree, look at the guidelines.",
        ),
    ]


def no_model(message: str) -> list[Check]:
    """What stands in place of the held-out reward model's checks where its run made none."""
    return [Check("held-out reward model", False, "none", "a run that ends well", message)]


def held_out_remark(name: str, checks: Iterable[Mapping[str, Any]]) -> str:
    """Why a round goes on without its held-out reward model; empty where that passed its checks."""
    failed = [Check(**check) for check in checks if not check["passed"]]
    if not failed:
        return ""
    what = f"{name} is not used as the held-out reward model" if name else "There is no held-out reward model"
    return f"{what}, and the round goes on without it. {refusal(failed)}"


def policy_checks(
    result: Mapping[str, Any],
    kl_budget_nats: float,
    minimum_win_rate_bound: float,
    maximum_identical_share: float,
    minimum_ended_share: float,
    second_judge: bool = False,
) -> list[Check]:
    """May people see this policy? Judged by an evaluation against the first policy on held-out prompts.

    With a second judge it must win by that one too, which it did not learn from.
    """
    second = [
        _above(
            "win rate by the held-out reward model",
            result.get("second_win_rate"),
            result.get("second_win_rate_interval"),
            minimum_win_rate_bound,
            "A reward model that it did not learn from does not surely prefer it, so it may have learned the other "
            "one's flaws. Look at what its run marked, and collect more answers.",
        )
    ]
    return [
        _at_most(
            "KL to the first policy",
            result.get("kl_nats"),
            kl_budget_nats,
            " nats",
            "It moved further than allowed. Give training fewer steps or a higher kl_coefficient, or raise the budget.",
        ),
        _at_most(
            "identical answers",
            result.get("identical_share"),
            maximum_identical_share,
            "",
            "It gives many prompts the same answer. Give training fewer steps, or a small entropy_coefficient.",
        ),
        _at_least(
            "answers that end",
            result.get("eos_rate"),
            minimum_ended_share,
            "Its answers run into the length limit. Raise missing_eos_penalty or max_completion_tokens.",
        ),
        _above(
            "win rate against the first policy",
            result.get("win_rate"),
            result.get("win_rate_interval"),
            minimum_win_rate_bound,
            "It is not surely better than the first policy. Collect more answers, or give training more steps.",
        ),
        *(second if second_judge else []),
    ]


def passed(checks: Iterable[Check]) -> bool:
    return all(check.passed for check in checks)


def refusal(checks: Iterable[Check]) -> str:
    """The checks that failed, with figure, need and what to do; empty when all passed."""
    return " ".join(
        f"{check.name[0].upper()}{check.name[1:]}: {check.figure}, needed {check.needed}. {check.advice}".strip()
        for check in checks
        if not check.passed
    )


def _above(name: str, value: float | None, interval: list[float] | None, bound: float, advice: str) -> Check:
    """The lower end of a 95 % interval must lie above the bound."""
    needed = f"a lower 95 % bound above {bound:.2f}"
    if value is None or not interval or interval[0] is None:
        return Check(name, False, "not measured", needed, advice)
    figure = f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"
    return Check(name, interval[0] > bound, figure, needed, advice)


def _at_most(name: str, value: float | None, limit: float, unit: str, advice: str) -> Check:
    if value is None:
        return Check(name, False, "not measured", f"at most {limit:g}{unit}", advice)
    return Check(name, value <= limit, f"{value:.2f}{unit}", f"at most {limit:g}{unit}", advice)


def _at_least(name: str, value: float | None, limit: float, advice: str) -> Check:
    if value is None:
        return Check(name, False, "not measured", f"at least {limit:g}", advice)
    return Check(name, value >= limit, f"{value:.2f}", f"at least {limit:g}", advice)
