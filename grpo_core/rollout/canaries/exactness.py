"""Canaries of single answers: the engine samples from the policy that it reports, and records what it did."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from grpo_core.errors import ConstraintError
from grpo_core.rollout.canaries.reference import score, support_problem
from grpo_core.rollout.canaries.subject import Finding, Subject, distance, shown
from grpo_core.types import Completion

VISIBLE = 1e-2  # nats by which an adapter must change a log-probability, or this canary would see nothing
UPDATE_SIZES = (0.5, 5.0, 50.0)  # relative to the weight: some modules of a model with random weights hardly matter
NARROWINGS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.7},
    {"top_p": 0.8},
    {"top_k": 20},
    {"min_p": 0.02},
    {"temperature": 1.3, "top_k": 50, "min_p": 0.001, "top_p": 0.9},
)


def adapter_reaches(subject: Subject, target: str) -> Finding:
    """An adapter for ``target`` alone changes the engine's log-probabilities as it changes PEFT's."""
    reference = subject.reference
    gap, shift, visible = 0.0, 0.0, max(VISIBLE, 2 * subject.tolerance)
    for update_size in UPDATE_SIZES:
        number = reference.publish((target,), update_size)
        completions = subject.at(number, [subject.request(index) for index in range(2)])
        moved = [reference.logprobs(each, number) for each in completions]
        gap = max(distance(each.sampling_logprobs, one) for each, one in zip(completions, moved, strict=True))
        shift = max(distance(one, reference.logprobs(each, 0)) for one, each in zip(moved, completions, strict=True))
        if shift >= visible or gap > subject.tolerance:
            break
    return Finding(
        gap <= subject.tolerance and shift >= visible,
        f"moved by up to {shift:.3f} nats, {gap:.1e} from PEFT",
    )


def nothing_is_stale(subject: Subject) -> Finding:
    """The same prompts before and after each of several swaps, with every cache warm."""
    reference = subject.reference
    first, second = reference.publish(reference.targets), reference.publish(reference.targets)
    requests = [subject.request(index) for index in (1, 2, 2)]
    gaps: list[tuple[float, int]] = []
    for number in (first, first, second, 0, first):
        gaps.append((subject.gap(subject.at(number, requests), number), number))
    gap, number = max(gaps)
    return Finding(gap <= subject.tolerance, f"3 swaps with warm caches: up to {gap:.1e} from PEFT (version {number})")


def ratio_is_one(subject: Subject) -> Finding:
    """On policy the sampled tokens are as probable to the reference as to the sampler, in every sampling mode."""
    requests = {_name(options): subject.request(index, index, **options) for index, options in enumerate(NARROWINGS)}
    requests["constrained"] = subject.orders(7, 7)
    requests["constrained, temperature 0.7, top_p 0.9"] = subject.orders(8, 8, temperature=0.7, top_p=0.9)
    number = subject.reference.publish(subject.reference.targets)
    completions = subject.at(number, list(requests.values()))
    gaps: list[tuple[float, str]] = []
    for (name, request), completion in zip(requests.items(), completions, strict=True):
        logits = subject.reference.logits(completion, number)
        problem = support_problem(logits, request, completion, subject.slack)
        if problem is not None:
            return Finding(False, f"{name}: {problem}")
        gaps.append((distance(completion.sampling_logprobs, score(logits, completion)), name))
    gap, name = max(gaps)
    return Finding(
        gap <= subject.tolerance, f"{len(gaps)} ways to sample: ratios within {np.expm1(gap):.1e} of 1 ({name})"
    )


def _name(options: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in options.items()) or "free"


def reference_is_the_base(subject: Subject) -> Finding:
    """``ref_logprobs``, where the engine gives them, are those of the base model."""
    number = subject.reference.publish(subject.reference.targets)
    requests = [subject.request(1, temperature=0.8), subject.request(1, top_p=0.8), subject.orders(2)]
    completions = subject.at(number, [replace(request, want_ref_logprobs=True) for request in requests])
    given = [(each, each.ref_logprobs) for each in completions if each.ref_logprobs is not None]
    if not given:
        return Finding(True, "this engine gives none: the trainer computes them")
    gap = max(distance(reference, subject.reference.logprobs(each, 0)) for each, reference in given)
    return Finding(gap <= subject.tolerance, f"{len(given)} completions: up to {gap:.1e} from transformers")


def batch_mates_change_nothing(subject: Subject) -> Finding:
    """A completion is the same alone, in a batch and in another order: bit for bit if the engine is batch-invariant."""
    requests = [subject.request(index % 4, index, max_tokens=4 + index * 5 % 12) for index in range(8)]
    requests += [subject.orders(index, index, temperature=0.8) for index in range(2)]
    together = subject.at(subject.reference.publish(subject.reference.targets), requests)
    backwards = subject.engine.generate(requests[::-1])[::-1]
    alone = [subject.engine.generate([request])[0] for request in requests]
    is_exact = subject.engine.is_batch_invariant
    tolerance = 0.0 if is_exact else None
    problem = subject.difference(together, backwards, tolerance) or subject.difference(together, alone, tolerance)
    detail = f"{len(requests)} requests: the same whatever shares the batch{', bit for bit' if is_exact else ''}"
    return Finding(problem is None, problem or detail)


def greedy_is_generate(subject: Subject) -> Finding:
    """``top_k=1`` gives what ``transformers.generate`` gives; of two equally probable tokens either is right."""
    requests = [subject.request(index, max_tokens=24, top_k=1) for index in range(4)]
    requests = [replace(each, sampling=replace(each.sampling, ignore_stop=False)) for each in requests]
    num_tokens = 0
    for number in (0, subject.reference.publish(subject.reference.targets)):
        for index, completion in enumerate(subject.at(number, requests)):
            expected = subject.reference.greedy(completion.prompt_ids, number, 24, subject.tokenizer.stop_id)
            if not _equal_but_for_ties(subject, completion, number, expected):
                detail = f"version {number}, prompt {index}: {shown(completion.completion_ids)} is not"
                return Finding(False, f"{detail} {shown(expected)}")
            num_tokens += len(expected)
    return Finding(True, f"{num_tokens} tokens, with the base model and with an adapter")


def _equal_but_for_ties(subject: Subject, completion: Completion, number: int, expected: list[int]) -> bool:
    ours = completion.completion_ids.tolist()
    for place, (mine, other) in enumerate(zip(ours, expected, strict=False)):
        if mine != other:
            row = subject.reference.logits(completion, number)[place]
            return abs(float(row[mine] - row[other])) <= subject.tolerance
    return len(ours) == len(expected)


def forced_runs_are_the_tokenizers(subject: Subject) -> Finding:
    """Constrained text has the tokenizer's own tokenization, and the model has read these tokens."""
    number = subject.reference.publish(subject.reference.targets)
    requests = [subject.orders(index, index, temperature=1.5) for index in range(4)]
    try:
        requests += [subject.pattern(index, index, temperature=1.5) for index in range(4)]
        note = ""
    except ConstraintError:
        note = "; no patterns with this tokenizer"
    num_forced = 0
    for request, completion in zip(requests, subject.at(number, requests), strict=True):
        text = subject.tokenizer.decode(completion.completion_ids)
        expected = subject.tokenizer.encode(text)
        if completion.completion_ids.tolist() != expected.tolist():
            return Finding(False, f"{text!r}: {shown(completion.completion_ids)} is not {shown(expected)}")
        logits = subject.reference.logits(completion, number)
        problem = support_problem(logits, request, completion, subject.slack)
        gap = distance(completion.sampling_logprobs, score(logits, completion))
        if problem is not None or gap > subject.tolerance:
            return Finding(False, f"{text!r}: {problem or f'after a forced run the engine is {gap:.1e} from PEFT'}")
        num_forced += int((~completion.completion_mask).sum())
    return Finding(True, f"{num_forced} forced tokens in {len(requests)} completions{note}")
