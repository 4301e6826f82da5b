"""Fault injection: do the phases detect the faults of ``bench/faults``, and raise no false alarms?

``python bench/planted_faults.py --json runs.json`` plants the faults one by one, each in a new process. A fault must
turn its phase red at the expected metric, and no other timing gate. A Markdown table shows which faults were detected.
It takes about an hour and resumes where it was stopped; runs without a verdict are repeated. ``--clean 20`` runs the
default suite 20 times without a fault, where nothing may turn red.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from bench.faults import FAULTS, Fault
from bench.faults.runs import FaultRun, Finding, Log, Result, expected_findings, judge, other_red_gates, run_phases
from bench.reporting.options import OneLineParser, add_markdown, natural, new_file
from grpo_core.home import write_atomic
from pytest_grpo.types import Verdict

ALL_PHASES = "all"


def run_faults(faults: Sequence[Fault], log: Log, *, all_phases: bool, options: Sequence[str]) -> list[FaultRun]:
    """The run of each fault, from the log or new."""
    runs: list[FaultRun] = []
    for place, fault in enumerate(faults, start=1):
        phases = ALL_PHASES if all_phases else str(fault.phase)
        run = log.get(fault.name, phases, 0)
        if run is None or not judge(fault, run).is_final:
            run = run_phases(fault, phases, options=options)
            log.add(run)
        runs.append(run)
        _say(f"[{place}/{len(faults)}] phase {fault.phase} {fault.name}: {judge(fault, run)}", run)
    return runs


def run_clean(num_runs: int, log: Log, options: Sequence[str]) -> list[FaultRun]:
    """Runs of the default suite without a fault, from the log or new."""
    runs: list[FaultRun] = []
    for number in range(num_runs):
        run = log.get(None, ALL_PHASES, number)
        if run is None:
            run = run_phases(None, ALL_PHASES, number, options)
            log.add(run)
        runs.append(run)
        red = [finding.metric for finding in run.findings if finding.is_red]
        _say(f"[{number + 1}/{num_runs}] clean: {', '.join(red) or 'nothing'} red", run)
    return runs


def _say(text: str, run: FaultRun) -> None:
    print(f"{text} ({run.duration_s:.0f} s)", file=sys.stderr, flush=True)
    if run.tail:
        print(run.tail, file=sys.stderr, flush=True)


def fault_table(faults: Sequence[Fault], runs: Sequence[FaultRun]) -> Iterator[str]:
    yield "| phase | fault | measured where it must turn red | result |"
    yield "|---" * 4 + "|"
    for fault, run in zip(faults, runs, strict=True):
        measured = (f"`{finding.metric}` {_measured(fault, finding)}" for finding in expected_findings(fault, run))
        yield _row(
            fault.phase,
            f"`{fault.name}`: {fault.description}",
            ", ".join(measured) or "nothing",
            _result(fault, run),
        )
    results = Counter(judge(fault, run) for fault, run in zip(faults, runs, strict=True))
    yield ""
    yield f"{results[Result.OK]} of {len(faults)} faults were seen."


def _result(fault: Fault, run: FaultRun) -> str:
    """The result, and why where it is not ok."""
    result = judge(fault, run)
    if result is Result.OTHERS_RED:
        return f"{result}: {', '.join(other_red_gates(fault, run))}"
    reasons = [finding.reason for finding in expected_findings(fault, run) if finding.reason]
    return f"{result}: {'; '.join(reasons)}" if result is not Result.OK and reasons else str(result)


def clean_table(runs: Sequence[FaultRun]) -> Iterator[str]:
    """Per gate, the verdicts of all runs, and the reasons of those that did not pass, with N for numbers."""
    by_metric: dict[tuple[int | None, str], list[Finding]] = defaultdict(list)
    for run in runs:
        for finding in run.findings:
            by_metric[finding.phase, finding.metric].append(finding)
    yield "| phase | metric | threshold | pass | inconclusive | red | not measured | reasons |"
    yield "|---" * 8 + "|"
    for (phase, metric), findings in sorted(by_metric.items()):
        counts = Counter(finding.verdict for finding in findings)
        reasons = Counter(re.sub(r"\d+(\.\d+)?", "N", finding.reason) for finding in findings if finding.reason)
        yield _row(
            phase,
            f"`{metric}`",
            findings[0].threshold,
            *(counts[verdict] for verdict in (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL)),
            len(runs) - len(findings),
            "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common()) or "-",
        )
    num_red = sum(any(finding.is_red for finding in run.findings) for run in runs)
    num_failed = sum(run.exit_code != 0 for run in runs)
    yield ""
    yield f"{num_red} of {len(runs)} clean runs had a red gate; {num_failed} did not end well."


def _measured(fault: Fault, finding: Finding) -> str:
    if fault.reason and fault.reason in finding.reason:
        return fault.reason
    if finding.measured is None or math.isnan(finding.measured):
        return "-"
    interval = "" if finding.low is None or finding.high is None else f" [{finding.low:.3g}, {finding.high:.3g}]"
    return f"{finding.measured:.3g}{interval} for {finding.threshold}"


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _selected(options: argparse.Namespace) -> list[Fault]:
    """The selected faults; all of them when neither faults nor clean runs are selected.

    Raises:
        ValueError: no such phase or fault.
    """
    by_name, phases = {fault.name: fault for fault in FAULTS}, {str(fault.phase) for fault in FAULTS}
    if options.fault is not None:
        if options.fault not in by_name:
            raise ValueError(f"--fault {options.fault!r}: no such fault; choose one of {', '.join(sorted(by_name))}")
        return [by_name[options.fault]]
    if options.phase is not None:
        wanted = options.phase.split(",")
        if not set(wanted) <= phases:
            raise ValueError(f"--phase {options.phase!r}: allowed are {', '.join(sorted(phases))}; try --phase 2,3")
        return [fault for fault in FAULTS if str(fault.phase) in wanted]
    return [] if options.clean else list(FAULTS)


def _parser() -> OneLineParser:
    parser = OneLineParser(description="Plant faults in the product and see which phases turn red.")
    parser.add_argument("--phase", metavar="N[,N]", help="only the faults of these phases")
    parser.add_argument("--fault", metavar="NAME", help="only this fault")
    parser.add_argument("--all-phases", action="store_true", help="run the whole suite with each fault")
    parser.add_argument("--clean", type=natural, default=0, metavar="N", help="clean runs of the whole suite")
    parser.add_argument("--budget", metavar="SECONDS", help="time limit of each gate, as --grpo-budget")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="keep the runs in this file, and resume from it")
    parser.add_argument("--fresh", action="store_true", help="ignore the runs that FILE holds")
    add_markdown(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every fault was seen and every clean run was clean, 1 when not, 2 for a mistake on the command line."""
    options = _parser().parse_args(arguments)
    try:
        faults = _selected(options)
        log = Log.open(options.json, fresh=options.fresh)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for_pytest = ["--grpo-budget", options.budget] if options.budget else []
    runs = run_faults(faults, log, all_phases=options.all_phases, options=for_pytest)
    clean_runs = run_clean(options.clean, log, for_pytest)
    lines = [*(fault_table(faults, runs) if faults else ()), *(("", *clean_table(clean_runs)) if clean_runs else ())]
    text = "\n".join(lines).strip() + "\n"
    print(text, end="")
    if options.markdown is not None:
        write_atomic(options.markdown, text.encode())
    all_seen = all(judge(fault, run) is Result.OK for fault, run in zip(faults, runs, strict=True))
    all_clean = all(run.exit_code == 0 and not any(finding.is_red for finding in run.findings) for run in clean_runs)
    return 0 if all_seen and all_clean else 1


if __name__ == "__main__":
    sys.exit(main())
