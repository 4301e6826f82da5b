"""The table ``environment.data``: questions of one's own, and the functions that reward the answers."""

from __future__ import annotations

from pydantic import Field, model_validator

from grpo_core.config.section import PathOrName, Section


class DataConfig(Section):
    """Questions, one a row, and their rewards."""

    path: PathOrName | None = None
    """A ``.jsonl`` or ``.parquet`` file; a folder or a hub id of the package ``datasets``, where that is installed."""
    split: str = "train"
    """Which part of a folder or hub id."""
    prompt_column: str = "prompt"
    """The column of the prompts: each a text, or a list of messages (``[{"role": "user", "content": "..."}]``)."""
    as_chat: bool = False
    """Make a user's message of a prompt that is a text, for the model's chat template."""
    system_prompt: str | None = None
    """The first message of every chat that has no system message of its own."""
    tools_column: str | None = None
    """The column of the functions that the policy may call: a list in OpenAI's form, or that as JSON; null in a row
    without any. The chat template shows them."""
    shuffle: bool = True
    """Take the rows of each epoch in an order of its own, drawn from ``rollout.seed``; off: as they are in the file."""
    rewards: tuple[str, ...] = ()
    """Reward functions, ``module:function`` or with a weight ``module:function=0.5``."""
    answer_tag: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")
    """What a task of reasoning-gym scores: the text between the last ``<TAG>`` and ``</TAG>``, nothing without them.
    Default: the whole answer."""
    reward_timeout_s: float = Field(default=60.0, gt=0, le=86_400)
    """A reward function that takes longer for one call counts as failed for its rows."""

    @model_validator(mode="after")
    def _questions_have_rewards(self) -> DataConfig:
        if self.path is not None and not self.rewards:
            raise ValueError("path (--dataset) needs a reward: add --reward module:function")
        return self
