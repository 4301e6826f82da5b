"""``grpo axiom push``: the panels as a dashboard in Axiom, with monitors and annotations."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console

from grpo_core.errors import CredentialsError
from grpo_core.home import Home

if TYPE_CHECKING:
    from grpo_core.axiom.documents import Documents


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["push"], help="write all, or bring it up to date")
    parser.add_argument("--dataset", metavar="NAME", help="the dataset that gets the events (default: AXIOM_DATASET)")
    parser.add_argument(
        "--notifier",
        action="append",
        default=[],
        metavar="ID",
        help="the notifier that monitors alert; repeatable",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the JSON, and send nothing")


def run(flags: argparse.Namespace, console: Console) -> int:
    from grpo_core.axiom.documents import check_dataset

    dataset = check_dataset(flags.dataset or os.environ.get("AXIOM_DATASET", ""))
    documents = _documents(dataset, flags.notifier)
    if flags.dry_run:
        console.print(json.dumps(asdict(documents), indent=2), soft_wrap=True, markup=False)
        return 0
    token = os.environ.get("AXIOM_TOKEN")
    if not token:
        raise CredentialsError("AXIOM_TOKEN is not set: make one in Axiom's settings that may write dashboards, "
                               "monitors and annotations; or look at the JSON with --dry-run")  # fmt: skip
    _push(documents, token, console)
    return 0


def _documents(dataset: str, notifier_ids: list[str]) -> Documents:
    from grpo_core.axiom.annotations import marks_of
    from grpo_core.axiom.documents import Documents, dashboard
    from grpo_core.axiom.monitors import monitors

    marks = marks_of(Home.from_environment(), dataset)
    return Documents(dashboard(dataset), monitors(dataset, notifier_ids), marks)


def _push(documents: Documents, token: str, console: Console) -> None:
    from grpo_core.axiom.api import Api
    from grpo_core.telemetry.addresses import check_header
    from grpo_core.telemetry.axiom import axiom_org_id, axiom_url

    api = Api(check_header("AXIOM_TOKEN", token), axiom_url(os.environ), axiom_org_id(os.environ))
    try:
        for change in api.push(documents):
            console.print(f"{change.outcome:<10}{change.what}", soft_wrap=True, markup=False)
    finally:
        api.close()
