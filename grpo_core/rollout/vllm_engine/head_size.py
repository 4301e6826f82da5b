"""The head sizes that vLLM's attention on a CPU has kernels for."""

from __future__ import annotations

from vllm.config import ModelConfig  # pyright: ignore[reportMissingImports]
from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # pyright: ignore[reportMissingImports]

from grpo_core.errors import ModelError


def check_head_size(config: ModelConfig) -> None:
    """vLLM on a CPU starts with any head size, and its engine process dies at the first step of one that it lacks.

    Raises:
        ModelError: it is one of those.
    """
    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if current_platform.is_cpu() and config.get_head_size() not in sizes:
        raise ModelError(
            f"the heads of model {config.model} have {config.get_head_size()} numbers each; vLLM on a CPU computes "
            f"heads of {', '.join(map(str, sizes))}; use rollout.engine=torch"
        )
