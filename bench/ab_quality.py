"""Comparisons of versions whose truth is known: how often is ``--grpo-against`` wrong, and what does it find?

``python bench/ab_quality.py --same 20`` compares the same code with itself; ``--noisy 20`` does so beside a process
that burns a core for random stretches. ``--slowdowns 10`` plants one of 10 % in each place of
``bench/ab_study/slowdowns.py``. ``--history`` measures commits whose messages claim a speed-up against the commits
before them. ``--bisect 30`` hides a slowdown of 10 % among 30 commits, and looks for it with ``grpo bisect --slower``.
Each prints a Markdown table; ``--json FILE`` keeps all rows. A suite of all phases takes ten minutes.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict

from scipy.stats import beta

from bench.ab_study.bisection import bisect, planted_history
from bench.ab_study.history import CLAIMS
from bench.ab_study.runs import Found, compare, copy_of, noisy_neighbour
from bench.ab_study.slowdowns import SLOWDOWNS, Slowdown, add_unrelated_lines
from bench.reporting.options import OneLineParser, add_json, natural, numbers_of, positive
from grpo_core.home import write_json

WRONG = ("faster", "slower")
CONFIDENCE = 0.95
HIDDEN_PERCENT = 10

Keep = Callable[[str, Sequence[Found]], None]
"""Keeps the rows of a run under a name."""


def study_same(num_suites: int, phases: str, *, is_noisy: bool, options: Sequence[str], keep: Keep) -> Iterator[str]:
    """Suites of the same code: any ``faster`` or ``slower`` is wrong."""
    suites: list[list[Found]] = []
    with copy_of("HEAD") as here, copy_of("HEAD") as other:
        add_unrelated_lines(other)
        for number in range(num_suites):
            with noisy_neighbour() if is_noisy else nullcontext():
                rows, seconds = compare(here, other, ["--phase", phases, *options])
            keep("noisy" if is_noisy else "same", rows)
            suites.append(rows)
            wrong = [f"{row.metric} {row.shown()}" for row in rows if row.outcome in WRONG]
            _say(f"[{number + 1}/{num_suites}] {', '.join(wrong) or 'nothing'} wrong ({seconds:.0f} s)")
    rows = [row for suite in suites for row in suite if row.num_pairs is not None]
    num_wrong = sum(any(row.outcome in WRONG for row in suite) for suite in suites)
    counts = {outcome: sum(row.outcome == outcome for row in rows) for outcome in (*WRONG, "same", "inconclusive")}
    yield (
        f"| suites of phases {phases}{', with a noisy neighbour' if is_noisy else ''} | rows with pairs | "
        + " | ".join(counts)
        + " | suites with a wrong one |"
    )
    yield "|---" * (3 + len(counts)) + "|"
    cells = [
        str(len(suites)),
        str(len(rows)),
        *map(str, counts.values()),
        f"{num_wrong}, at most {_upper(num_wrong, len(suites))}",
    ]
    yield f"| {' | '.join(cells)} |"


def study_slowdowns(
    percents: Sequence[int], places: Sequence[Slowdown], options: Sequence[str], keep: Keep
) -> Iterator[str]:
    """Slowdowns of a part, each found by the row of that part."""
    yield "| place | slower by | the row that must show it | found | other rows that changed |"
    yield "|---" * 5 + "|"
    num_found = 0
    for slowdown in places:
        for percent in percents:
            with copy_of("HEAD") as here, copy_of("HEAD") as other:
                add_unrelated_lines(other)
                slowdown.plant(here, percent / 100)
                rows, seconds = compare(here, other, ["--phase", str(slowdown.phase), "-k", slowdown.test, *options])
            keep(f"{slowdown.place} {percent} %", rows)
            own = [row for row in rows if row.metric == slowdown.metric]
            others = [f"`{row.metric}` {row.outcome}" for row in rows if row.outcome in WRONG and row not in own]
            num_found += any(row.outcome == "slower" for row in own)
            shown = "; ".join(row.shown() for row in own) or "not measured"
            _say(f"{slowdown.place} {percent} %: {shown} ({seconds:.0f} s)")
            yield f"| {slowdown.place} | {percent} % | `{slowdown.metric}` | {shown} | {', '.join(others) or '-'} |"
    yield ""
    yield f"{num_found} of {len(places) * len(percents)} were found."


def study_history(options: Sequence[str], keep: Keep) -> Iterator[str]:
    """Commits whose messages claim a speed-up, each against the commit before it."""
    yield "| commit | what it claims | row | over the commit before |"
    yield "|---" * 4 + "|"
    for claim in CLAIMS:
        rows, seconds = compare(
            claim.commit, f"{claim.commit}~1", ["--phase", claim.phases, "-k", claim.tests, *options]
        )
        keep(claim.commit, rows)
        _say(f"{claim.commit} ({seconds:.0f} s)")
        shown = [row for row in rows if row.num_pairs is not None and row.metric in claim.metrics]
        if not shown:
            yield f"| {claim.commit} | {claim.text} | - | not measured |"
        for row in shown:
            yield f"| {claim.commit} | {claim.text} | `{row.metric}` | {row.shown()} |"


def study_bisection(num_commits: int, places: Sequence[Slowdown], seed: int, options: Sequence[str]) -> Iterator[str]:
    """A slowdown hidden at a random place of a history."""
    yield "| hidden in | among | bad commit | found | what it printed | minutes |"
    yield "|---" * 6 + "|"
    rng = random.Random(seed)
    for slowdown in places:
        position = rng.randint(1, num_commits)
        with planted_history(slowdown, HIDDEN_PERCENT / 100, num_commits, position) as history:
            result = bisect(history, slowdown, options)
            found = "the same" if result.found == history.slow else result.found or "none"
        _say(f"{slowdown.place}: {found}, {'; '.join(result.lines)} ({result.seconds:.0f} s)")
        shown = "<br>".join(result.lines)
        minutes = f"{result.seconds / 60:.0f}"
        yield f"| {slowdown.place} | {num_commits} | number {position} | {found} | {shown} | {minutes} |"


def _upper(num_wrong: int, num_suites: int) -> str:
    """The exact upper bound of the share, by Clopper and Pearson."""
    share = 1.0 if num_wrong == num_suites else float(beta.ppf(CONFIDENCE, num_wrong + 1, num_suites - num_wrong))
    return f"{100 * share:.0f} % of suites"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> OneLineParser:
    parser = OneLineParser(description="Compare versions whose truth is known.")
    add = parser.add_argument
    add("--same", type=natural, default=0, metavar="N", help="suites of the same code")
    add("--noisy", type=natural, default=0, metavar="N", help="the same, beside a noisy neighbour")
    add("--phase", default="1,2,3,4,5", metavar="N[,N]", help="phases of these suites (default 1,2,3,4,5)")
    add("--slowdowns", type=numbers_of(positive), default=(), metavar="PERCENT[,PERCENT]", help="plant slowdowns")
    add("--place", choices=[each.place for each in SLOWDOWNS], help="only in this place")
    add("--history", action="store_true", help="measure what commits claim")
    add("--bisect", type=natural, default=0, metavar="N", help="hide a slowdown of 10 %% among N commits")
    add("--seed", type=natural, default=0, help="where it is hidden (default 0)")
    add("pytest_arguments", nargs="*", metavar="-- PYTEST_ARGUMENT", help="passed on to pytest")
    add_json(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    kept: dict[str, list[list[dict[str, object]]]] = {}

    def keep(name: str, rows: Sequence[Found]) -> None:
        kept.setdefault(name, []).append([asdict(row) for row in rows])
        if options.json is not None:
            write_json(options.json, kept)

    for table in _tables(options, keep):
        for line in table:
            print(line, flush=True)
        print()
    return 0


def _tables(options: argparse.Namespace, keep: Keep) -> Iterator[Iterator[str]]:
    more = options.pytest_arguments
    places = [each for each in SLOWDOWNS if options.place in (None, each.place)]
    if options.same:
        yield study_same(options.same, options.phase, is_noisy=False, options=more, keep=keep)
    if options.noisy:
        yield study_same(options.noisy, options.phase, is_noisy=True, options=more, keep=keep)
    if options.slowdowns:
        yield study_slowdowns(options.slowdowns, places, more, keep)
    if options.history:
        yield study_history(more, keep)
    if options.bisect:
        yield study_bisection(options.bisect, places, options.seed, more)


if __name__ == "__main__":
    sys.exit(main())
