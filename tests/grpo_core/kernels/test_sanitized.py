"""The compiled code in a debug build: it checks what it gets, and runs under AddressSanitizer and UBSan."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT_FOLDER = Path(__file__).parents[3]
FLAGS = "-g -O1 -DGRPO_CHECKED -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
TESTS = (
    "tests/grpo_core/training/forward/test_compiled_tree.py",
    "tests/grpo_core/rollout/torch_engine/forward",
    "tests/grpo_core/rollout/torch_engine/test_draws.py",
)
OUT_OF_BOUNDS = """
import torch
from grpo_core.rollout.torch_engine.weights.fused import Linear
from grpo_core.rollout.torch_engine.weights.products import open_products
products = open_products()
assert products is not None
head = Linear(torch.ones(32, 16), None)
print(products.logits(head, torch.ones(1, 16), torch.tensor([31])).tolist(), flush=True)
products.logits(head, torch.ones(1, 16), torch.tensor([32]))
"""


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process whose compiled code is the debug build."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc")
    runtimes = [
        subprocess.run([gcc, f"-print-file-name={name}.so"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan", "libubsan")
    ]
    if not all(map(os.path.isabs, runtimes)):
        pytest.skip("gcc without its sanitizers")
    return os.environ | {
        "CC": f"{gcc} {FLAGS}",
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "GRPO_CACHE": str(tmp_path_factory.mktemp("cache")),
        "OMP_NUM_THREADS": "2",
    }


@pytest.mark.slow
def test_the_compiled_code_is_clean_under_the_sanitizers(sanitized: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=PROJECT_FOLDER, env=sanitized, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert " passed" in done.stdout
    built = {
        path.name.rpartition("-")[0].rpartition("-")[0] for path in Path(sanitized["GRPO_CACHE"]).glob("kernels/*.so")
    }
    assert built == {"crew", "decode", "draws", "products", "tree_attention"}


@pytest.mark.slow
def test_an_id_beyond_the_vocabulary_ends_the_debug_build(sanitized: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_BOUNDS], env=sanitized, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[[16.0]]\n", done.stderr[-2000:]
    assert done.returncode != 0
    assert "does not hold: head->ids[c] >= 0 && head->ids[c] < head->vocab_size" in done.stderr
