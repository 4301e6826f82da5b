"""The base class of all sections: unknown keys are errors, numbers are finite, values are frozen."""

from __future__ import annotations

import os
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationInfo, field_validator

PathOrName = Annotated[str, StringConstraints(min_length=1), AfterValidator(os.path.expanduser)]
"""A file, a folder, or an id. A leading ``~`` is the home folder: in a settings file no shell expands it."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        kinds = _kinds(cls.model_fields[info.field_name].annotation)
        if bool not in kinds and {int, float} & kinds:
            for each in value if isinstance(value, list | tuple) else (value,):
                if isinstance(each, bool):
                    raise ValueError(f"{str(each).lower()} is no number; give one")
        return value

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # a table has none, and configurations are keys of caches


def _kinds(annotation: Any) -> set[Any]:
    """The types that ``annotation`` joins."""
    return set().union({annotation}, *(_kinds(part) for part in get_args(annotation)))
