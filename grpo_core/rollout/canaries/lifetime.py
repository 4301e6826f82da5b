"""Canaries of a long-running engine: swaps while requests are under way, and memory after many of them."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from statistics import median

import psutil
import torch

from grpo_core.errors import GrpoError
from grpo_core.rollout.canaries.subject import Finding, Subject
from grpo_core.rollout.protocol import completions_or_error
from grpo_core.types import Completion

ALLOWED_GROWTH_BYTES = 32 << 20
NUM_READINGS = 20  # of the memory in use, while the swaps go on
MAX_MEMORY_S = 240.0
WARM_UP_SHARE = 0.5  # of the readings: pools fill first; after them memory is expected to be flat


def requests_keep_their_version(subject: Subject) -> Finding:
    """Requests under way at a swap finish on the version that they started with, and report it."""
    first, second = (subject.reference.publish(subject.reference.targets) for _ in range(2))
    requests = [subject.request(index, index, max_tokens=16) for index in range(4)]
    expected = subject.at(second, requests) + subject.at(first, requests)
    engine = subject.engine

    versions = {engine.submit(request): first for request in requests}
    tickets = list(versions)
    results = {outcome.ticket: outcome.result for outcome in engine.step()}
    num_under_way = len(tickets) - len(results)
    engine.use_version(second)
    versions |= {engine.submit(request): second for request in requests}
    results |= _finish(subject, len(versions) - len(results))

    late = [ticket for ticket, number in versions.items() if number == second]
    completions = completions_or_error([results[ticket] for ticket in (*late, *tickets)])
    problem = subject.difference(completions, expected) or _mislabelled(completions, [second] * 4 + [first] * 4)
    return Finding(problem is None, problem or f"{num_under_way} requests under way at the swap, {len(late)} after it")


def versions_share_a_batch(subject: Subject) -> Finding:
    """Requests that name a version get it, side by side, whatever version is active."""
    numbers = [0, *(subject.reference.publish(subject.reference.targets) for _ in range(2))]
    named = [(subject.request(index, index), number) for index in range(2) for number in numbers]
    subject.engine.use_version(numbers[1])
    completions = subject.engine.generate([replace(each, policy_version=number) for each, number in named])
    expected = [subject.at(number, [each])[0] for each, number in named]
    problem = subject.difference(completions, expected) or _mislabelled(completions, [number for _, number in named])
    return Finding(problem is None, problem or f"{len(named)} requests of {len(numbers)} versions")


def _finish(subject: Subject, num_left: int) -> dict[int, Completion | GrpoError]:
    results: dict[int, Completion | GrpoError] = {}
    while len(results) < num_left:
        results |= {outcome.ticket: outcome.result for outcome in subject.engine.step()}
    return results


def _mislabelled(completions: list[Completion], numbers: list[int]) -> str | None:
    for index, (completion, number) in enumerate(zip(completions, numbers, strict=True)):
        if completion.policy_version != number:
            return f"request {index}: says version {completion.policy_version}, was sampled from {number}"
    return None


def memory_is_flat(
    subject: Subject,
    num_swaps: int,
    num_requests: int,
    allowed_bytes: int = ALLOWED_GROWTH_BYTES,
    max_s: float = MAX_MEMORY_S,
) -> Finding:
    """``num_swaps`` new versions, each with its share of ``num_requests`` and a cancelled one, as in training.

    Where the second swap says that this would take longer than ``max_s``, it is as many as fit, 20 at least.
    """
    gc.collect()
    gc.freeze()  # a reading then collects what is new: a large vocabulary alone is millions of objects
    try:
        return _after_swaps(subject, num_swaps, num_requests, allowed_bytes, max_s)
    finally:
        gc.unfreeze()


def _after_swaps(subject: Subject, num_swaps: int, num_requests: int, allowed_bytes: int, max_s: float) -> Finding:
    sizes: list[int] = []
    share = num_requests / num_swaps
    every = max(1, num_swaps // NUM_READINGS)
    done = swap = 0
    while swap < num_swaps:
        start = time.monotonic()
        number = subject.reference.publish(subject.reference.targets)
        subject.reference.forget_before(number - 1)
        subject.engine.use_version(number)
        left_over = subject.engine.submit(subject.request(swap, swap, max_tokens=64))
        subject.engine.step()
        subject.engine.cancel(left_over)
        swap += 1
        wanted = int(swap * share)
        subject.engine.generate([subject.request(each, each, max_tokens=8) for each in range(done, wanted)])
        done = wanted
        if swap == 2:  # the first one builds what all later ones use
            fitting = int(max_s / (time.monotonic() - start))
            num_swaps = min(num_swaps, max(fitting, NUM_READINGS))
            every = max(1, num_swaps // NUM_READINGS)
        if swap % every == 0:
            sizes.append(_memory_bytes())
    warm = sizes[int(len(sizes) * WARM_UP_SHARE) :]
    part = max(1, len(warm) // 3)
    growth = median(warm[-part:]) - median(warm[:part])
    return Finding(
        growth <= allowed_bytes,
        f"{growth / 2**20:+.1f} MiB over {num_swaps} swaps and {done} requests "
        f"({sizes[-1] / 2**20:.0f} MiB in use, {allowed_bytes / 2**20:.0f} allowed)",
    )


def _memory_bytes() -> int:
    """The memory of this process and those that it started, and of its tensors on the GPU."""
    gc.collect()
    process = psutil.Process()
    resident = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            resident += child.memory_info().rss
        except psutil.NoSuchProcess:  # it has ended in the meantime
            continue
    return resident + torch.cuda.memory_allocated()
