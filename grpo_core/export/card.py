"""The model card: what was trained on what, and how to load it. It names no path of the machine."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from grpo_core.config import GrpoConfig

_WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{place}")
tokenizer = AutoTokenizer.from_pretrained("{place}")"""
_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "{place}")"""


def hub_id(model: str) -> str | None:
    """``model`` if it is a hub id, else None: a preset, or a folder of this machine."""
    return model if model.count("/") == 1 and not model.startswith((".", "/")) and not Path(model).is_dir() else None


def model_card(config: GrpoConfig, step: int, *, is_whole: bool) -> str:
    """Markdown with the front matter that the hub reads."""
    base = hub_id(config.model.name)
    head = [f"library_name: {'transformers' if is_whole else 'peft'}", "pipeline_tag: text-generation"]
    head += ["tags:", "  - grpo", "  - pytest-grpo"] + ([f"base_model: {base}"] if base else [])
    training, rollout, data = config.training, config.rollout, config.environment.data
    rows = {
        "base model": base or Path(config.model.name).name,
        "method": "full weights" if training.method == "full" else f"LoRA, rank {config.model.lora_rank}",
        "steps": step,
        "environment": config.environment.name,
        "questions": "-" if data.path is None else Path(data.path).name,
        "rewards": ", ".join(data.rewards) or "the environment's",
        "loss": training.loss,
        "learning rate": "the default" if training.learning_rate is None else training.learning_rate,
        "batch": f"{rollout.num_groups} questions, {rollout.group_size} answers to each",
        "seed": rollout.seed,
        "trained with": f"pytest-grpo {version('pytest-grpo')}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    code = (_WHOLE if is_whole else _ADAPTER).format(place="THIS_FOLDER", base=base or "THE_BASE_MODEL")
    front = "\n".join(head)
    return (
        f"---\n{front}\n---\n\n# {config.run}\n\nTrained with GRPO for {step} steps.\n\n| | |\n|---|---|\n{table}\n\n"
        f"```python\n{code}\n```\n"
    )
