"""Train and sample every causal language model of transformers, small and with random weights, and print a table.

    uv run python -m bench.architectures [NAME ...] [--page FILE]

A row says which layout was proved for training, how far its log-probabilities and gradients are from those of
transformers and PEFT on separate sequences, how the plain engine reads tokens, and how far its log-probabilities are
from transformers' without a cache. What is refused is refused in one line.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils.logging import set_verbosity_error

from bench.architecture_arms.agreement import sample, train
from bench.architecture_arms.small import small_config
from grpo_core.errors import GrpoError
from grpo_core.home import write_atomic
from grpo_core.model.policy import SUPPORTED_MODEL_TYPES

MAX_PARAMETERS = 40_000_000
MAX_S, MAX_BYTES = 90.0, 4 << 30  # of one architecture: what takes more is a row that says so
TOLERANCES = (1e-3, 1e-4)  # of gradients, relative to the largest, and of log-probabilities, in nats


@dataclass(frozen=True, slots=True)
class Result:
    """What one architecture does here; an empty field where it was not reached."""

    architecture: str
    layout: str = ""
    training_gap: str = ""
    reading: str = ""
    sampling_gap: str = ""
    note: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        engine = "torch" if self.architecture in SUPPORTED_MODEL_TYPES else "plain"
        return (
            self.architecture, self.layout, self.training_gap, engine if self.reading else "", self.reading,
            self.sampling_gap, self.note,
        )  # fmt: skip


PAGE = """# Architectures

`bench/architectures.py` writes this page:

```console
$ uv run python -m bench.architectures --page docs/architectures.md      # one minute on two idle cores
$ uv run python -m bench.architectures nemotron mamba
```

It builds every causal language model of transformers, small and with random weights, each in a process of its own. It
trains the model with an adapter on every linear module that PEFT takes, and samples from it. Here with transformers
{transformers}, PEFT {peft} and torch {torch}, on a CPU in float32.

- `layout`: the one that was [proved](models.md#what-is-proved-when-a-model-is-loaded) for training.
- `training, off by`: the largest difference of a gradient from that of transformers and PEFT on separate sequences,
  relative to the largest gradient.
- `engine`: which one samples. The torch engine drives few architectures, the plain engine the others. `reads` is how
  the plain engine reads a sequence.
- `sampling, off by`: the largest difference of the plain engine in nats from transformers without a cache.
- `note`: the line that refuses a model. "Not built" means that the sweep's small sizes do not fit.
"""

HEADER = ("architecture", "layout", "training, off by", "engine", "reads", "sampling, off by", "note")


def check_apart(architecture: str, kind: type[PreTrainedConfig]) -> Result:
    """``check`` in a process of its own: one that crashes, hangs or wants too much memory is a row as well."""
    context = multiprocessing.get_context("fork")  # what takes long to import is there already
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_result, args=(sender, architecture, kind))
    child.start()
    sender.close()
    try:
        if receiver.poll(MAX_S):
            result: Result = receiver.recv()
            return result
        return Result(architecture, note=f"**hangs**: no result after {MAX_S:.0f} s")
    except EOFError:
        child.join()
        return Result(architecture, note=f"**crash**: the process ended with {child.exitcode}")
    finally:
        child.kill()
        child.join()


def _send_result(sender: Connection, architecture: str, kind: type[PreTrainedConfig]) -> None:
    limit = psutil.Process().memory_info().data + MAX_BYTES  # what was inherited counts, too
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    sender.send(check(architecture, kind))


def check(architecture: str, kind: type[PreTrainedConfig]) -> Result:
    """Build, train and sample one architecture. Failures that are no one-line refusals are marked."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = small_config(kind)
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
            if size > MAX_PARAMETERS:
                return Result(architecture, note=f"not built: {size / 1e6:,.0f} million parameters with small sizes")
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).eval()
            with torch.inference_mode():
                model(input_ids=torch.arange(3, 17)[None], use_cache=False)
            model.save_pretrained(folder)
        except Exception as error:  # any of a hundred configurations, with sizes that it does not take
            return Result(architecture, note=f"not built: {_line(error)}")
        found = Result(architecture)
        try:
            layout, gap = train(Path(folder))
            found = Result(architecture, layout, f"{gap:.1e}")
            reading, gap = sample(Path(folder))
            found = Result(architecture, layout, found.training_gap, reading, f"{gap:.1e}")
            is_right = float(found.training_gap) <= TOLERANCES[0] and gap <= TOLERANCES[1]
            return found if is_right else Result(*_fields(found), note="**WRONG**")
        except GrpoError as error:
            return Result(*_fields(found), note=f"refused: {_line(error).split(': ', 1)[-1]}")
        except Exception as error:  # this is what the sweep is there to find
            return Result(*_fields(found), note=f"**traceback** {type(error).__name__}: {_line(error)}")


def _fields(found: Result) -> tuple[str, ...]:
    return found.architecture, found.layout, found.training_gap, found.reading, found.sampling_gap


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160].rstrip() or type(error).__name__


def rows(results: list[Result]) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield f"| {' | '.join(HEADER)} |"
    yield f"|{'---|' * len(HEADER)}"
    for result in results:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in result.cells)} |"


def page(results: list[Result]) -> Iterator[str]:
    """The lines of the documentation's page."""
    yield PAGE.format(**{name: version(name) for name in ("transformers", "peft", "torch")})
    num_right = sum(bool(each.sampling_gap) and not each.note for each in results)
    num_not_built = sum(each.note.startswith("not built") for each in results)
    num_refused = sum(each.note.startswith("refused") for each in results)
    yield (
        f"Of {len(results)} architectures {num_right} train and sample right, {num_refused} are refused, "
        f"{num_not_built} are not built.\n"
    )
    yield from rows(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="architectures; default: all")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write them to this page of the documentation too")
    flags = parser.parse_args()
    set_verbosity_error()
    logging.getLogger("grpo_core").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kinds = sorted({kind.model_type: kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING}.items())
    results = []
    for architecture, kind in kinds:
        if flags.names and architecture not in flags.names:
            continue
        start = time.perf_counter()
        results.append(check_apart(architecture, kind))
        print(f"{time.perf_counter() - start:5.1f} s  {'  '.join(results[-1].cells)}", flush=True)
    if flags.page is not None:
        write_atomic(flags.page, ("\n".join(page(results)) + "\n").encode())
    sys.exit(any("**" in result.note for result in results))


if __name__ == "__main__":
    main()
