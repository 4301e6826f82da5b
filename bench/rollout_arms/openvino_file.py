"""Writes a model in OpenVINO's format, with transformers' own exporter: keys and values are states of the graph."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from grpo_core.errors import MissingPackageError

NUM_ROWS, NUM_PAST, NUM_NEW = 2, 5, 3
"""The sizes of the example that the exporter follows; all of them may be others afterwards."""


def write_openvino(model: Any, folder: Path) -> None:
    """Write ``model`` to ``folder``, with weights as they are.

    Raises:
        MissingPackageError: transformers is too old.
    """
    import openvino  # pyright: ignore[reportMissingImports]
    from transformers.exporters.configs import OpenVINOConfig
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    rows, columns = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
    shapes = {name: {0: rows, 1: columns} for name in ("input_ids", "attention_mask", "position_ids")}
    states = [{0: rows, 2: columns}] * (2 * model.config.num_hidden_layers)
    config = OpenVINOConfig(dynamic=True, dynamic_shapes={**shapes, "past_key_values": states}, stateful=True)
    exported = OpenVINOExporter().export(model, _example(model), config=config)
    if isinstance(exported, openvino.Model):  # of an older exporter, without an input for the attention mask
        raise MissingPackageError(
            f"the arm openvino cannot run a model that transformers {version('transformers')} writes; "
            "run with: --with transformers==5.23.0"
        )
    folder.mkdir(parents=True)
    openvino.save_model(exported.program, str(folder / "openvino_model.xml"), compress_to_fp16=False)


@torch.no_grad()
def _example(model: Any) -> dict[str, Any]:
    """Some tokens after others."""
    cache = DynamicCache(config=model.config)
    model(input_ids=torch.arange(NUM_ROWS * NUM_PAST).reshape(NUM_ROWS, NUM_PAST), past_key_values=cache)
    return {
        "input_ids": torch.arange(NUM_ROWS * NUM_NEW).reshape(NUM_ROWS, NUM_NEW),
        "attention_mask": torch.ones(NUM_ROWS, NUM_PAST + NUM_NEW, dtype=torch.long),
        "position_ids": torch.arange(NUM_PAST, NUM_PAST + NUM_NEW).repeat(NUM_ROWS, 1),
        "past_key_values": cache,
    }
