"""One sentence for whoever asks what another selector would have saved."""

from __future__ import annotations

import math
from collections.abc import Sequence

from depo.config.presets import SELECTOR_PRESETS
from depo.replay.log import RolloutLog
from depo.replay.measures import base_informative_share
from depo.replay.selectors import REFERENCES
from depo.replay.suite import Result
from depo.replay.tables import by_selector, mean

ENOUGH_GROUPS = 200
"""Effective groups below which shares are uncertain by more than about 0.07 (two standard errors).
"""

HIGH_SHARE = 0.8
"""With so many informative groups to begin with, the best selector could save a fifth of the
rollouts at most.
"""

SURE = 2.0
"""Standard errors by which a selector must be better than the run to be named."""


def advise(log: RolloutLog, results: Sequence[Result]) -> str:
    """Return what the results say about the rollouts of the run that recorded the log."""
    if not log.covers_pool:
        needed = "selection.explore_share above 0, with explore_by uniform"
        return (
            f"Advice: this log cannot tell: the selector that recorded it never drew at random "
            f"from what it rejected (it takes {needed})."
        )
    if log.effective_groups < ENOUGH_GROUPS:
        return (
            f"Advice: this log cannot tell: its {len(log.successes):,} groups weigh as much as "
            f"{log.effective_groups:.0f} drawn evenly, "
            f"{ENOUGH_GROUPS} are needed."
        )
    base = base_informative_share(log, 0)
    if base >= HIGH_SHARE:
        return (
            f"Advice: filtering does not pay here: {base:.0%} of the groups are informative "
            f"without any."
        )
    return _saving(log, results)


def _saving(log: RolloutLog, results: Sequence[Result]) -> str:
    """Compare the best selector with the run itself, at equal informative groups.

    The run's share is that of what it rolled out, not weighted.
    """
    scored = log.tick_of_record >= results[0]["warm"]
    spent = float(log.informative[scored].mean())
    candidates = {
        key: same
        for key, same in by_selector(results).items()
        if key[1] not in REFERENCES and _selects(key[1])
    }
    if not candidates:
        return "Advice: none, for lack of a selector to compare: name some with --selectors."
    (budget, selector), best = max(
        candidates.items(), key=lambda item: mean(item[1], "informative_share")
    )
    found = mean(best, "informative_share")
    error = math.sqrt(
        found
        * (1 - found)
        / max(1.0, mean(best, "picks") * log.effective_groups / len(log.successes))
    )
    if not found > spent + SURE * error:
        return (
            f"Advice: no selector would clearly have saved rollouts: the best, {selector}, "
            f"finds {found:.0%} informative groups, the run found {spent:.0%}."
        )
    groups, rollouts = int(log.informative[scored].sum()), int(scored.sum()) * log.group_size
    needed = float(f"{groups / found * log.group_size:.2g}")
    return (
        f"Advice: {selector} at budget {budget:g} would have found the run's {groups:,} "
        f"informative groups in about "
        f"{needed:,.0f} rollouts instead of {rollouts:,}, {1 - spent / found:.0%} fewer."
    )


def _selects(selector: str) -> bool:
    return SELECTOR_PRESETS[selector].settings.get("rule") != "uniform"
