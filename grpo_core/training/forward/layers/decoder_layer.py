"""A decoder layer of Llama, Qwen2 and Qwen3 that follows a ``TreePlan``.

The last layer computes only the rows that predict a chosen token. All other rows contribute their keys and values: for
``[P | R1 ... RG]`` one row of the prompt is left.

Legend: B rows of a batch, T tokens, Q of them with queries, H heads, D head size, E hidden size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention, Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3DecoderLayer

from grpo_core.training.forward.layers.conditions import is_plain
from grpo_core.training.forward.layers.rotary import rotate
from grpo_core.training.forward.tree_attention import TreePlan


class _TreeLayer:
    """``forward`` with a ``TreePlan``; without one it falls back to the original."""

    def forward(self, hidden_states: Tensor, *args: Any, plan: object = None, **kwargs: Any) -> Tensor:
        assert isinstance(self, LlamaDecoderLayer | Qwen2DecoderLayer | Qwen3DecoderLayer)
        if not isinstance(plan, TreePlan) or not is_plain(hidden_states):
            others = kwargs if plan is None else {**kwargs, "plan": plan}
            return super().forward(hidden_states, *args, **others)  # pyright: ignore[reportAttributeAccessIssue]
        attention = self.self_attn
        is_last = attention.layer_idx == attention.config.num_hidden_layers - 1
        rows = plan.needed_rows if is_last else None
        normed = self.input_layernorm(hidden_states)
        attended = _attend(attention, normed, kwargs["position_embeddings"], plan, rows)
        kept = hidden_states if rows is None else hidden_states.index_select(1, rows)
        hidden = kept + attention.o_proj(attended)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class TreeLlamaLayer(_TreeLayer, LlamaDecoderLayer):
    pass


class TreeQwen2Layer(_TreeLayer, Qwen2DecoderLayer):
    pass


class TreeQwen3Layer(_TreeLayer, Qwen3DecoderLayer):
    pass


def _attend(
    attention: LlamaAttention | Qwen2Attention | Qwen3Attention,
    normed: Tensor,
    angles: tuple[Tensor, Tensor],
    plan: TreePlan,
    rows: Tensor | None,
) -> Tensor:
    """[B, Q, H * D]: of all tokens of ``normed`` [B, T, E], or those at ``rows`` [Q]."""
    cosine, sine = angles
    keys, values = (_by_head(map_(normed), attention.head_dim) for map_ in (attention.k_proj, attention.v_proj))
    if rows is not None:
        normed = normed.index_select(1, rows)
    queries = _by_head(attention.q_proj(normed), attention.head_dim)
    if isinstance(attention, Qwen3Attention):
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    keys = rotate(keys, cosine, sine)
    if rows is not None:
        cosine, sine = cosine.index_select(1, rows), sine.index_select(1, rows)
    queries = rotate(queries, cosine, sine)
    queries, keys, values = (tensor.transpose(1, 2) for tensor in (queries, keys, values))
    return plan.attend(attention.layer_idx, queries, keys, values, attention.scaling).flatten(2)


def _by_head(x: Tensor, head_size: int) -> Tensor:
    return x.unflatten(-1, (-1, head_size))
