"""What a part says of the GPU, and what it is asked to measure."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Row(BaseModel):
    """A figure; without ``value`` it could not be had, and ``note`` says why."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    value: float | None
    unit: str = ""
    rival: str = ""  # the figure to beat, with its source
    note: str = ""


class Work(BaseModel):
    """What the parts measure. All of them get the same model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: str
    folder: str  # where the model is, and what the parts write
    device: str
    dtype: str
    train_tokens: tuple[int, ...]
    attention_tokens: tuple[int, ...]
    decode_rows: tuple[int, ...]
    prompt_tokens: int
    new_tokens: int
    budget_s: int  # of each gate of the phases
    phases: str

    @property
    def model(self) -> str:
        return f"{self.folder}/model"
