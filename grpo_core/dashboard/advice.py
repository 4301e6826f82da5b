"""What ``grpo explain`` says of a run, for the page."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from grpo_core.dashboard.values import number
from grpo_core.errors import GrpoError
from grpo_core.explain.advice import Advice, advise
from grpo_core.explain.health import complaints
from grpo_core.explain.run_record import read_run
from grpo_core.explain.settings import settings_of
from grpo_core.home import Home


def advice_json(home: Home, run: str) -> dict[str, Any]:
    """What is wrong with the run, else its largest shares and what to try. ``note``: why there is neither."""
    try:
        record = read_run(home, run)
        wrong = [asdict(complaint) for complaint in complaints(record)]
        shares = [] if wrong else [_share(advice) for advice in advise(record, settings_of(home, run))]
    except GrpoError as error:
        return {"complaints": [], "shares": [], "note": str(error)}
    except (ValueError, KeyError, TypeError, OverflowError, ZeroDivisionError):
        return {"complaints": [], "shares": [], "note": "The events of this run are none that grpo train writes."}
    return {"complaints": wrong, "shares": shares, "note": ""}


def _share(advice: Advice) -> dict[str, Any]:
    rule = advice.rule
    return {
        "span": advice.span,
        "thread": advice.thread,
        "share": number(advice.share),
        "bound": number(advice.bound),
        "what": "" if rule is None else rule.what,
        "try": "" if rule is None else rule.setting,
        "source": "" if rule is None else rule.source,
        "judge": "" if rule is None else f"grpo bench --phase {rule.phase}",
    }
