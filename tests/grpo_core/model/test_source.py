from __future__ import annotations

from pathlib import Path

import pytest

from grpo_core.errors import ModelError
from grpo_core.model.source import locate_model
from tests.grpo_core.model.broken_models import one_line


def test_names_that_are_no_model_are_refused_without_asking_the_network(tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert locate_model(str(model_folder)) == str(model_folder)
    assert locate_model("owner/name") == "owner/name"
    for name in ("huge", "./missing", "/missing/folder", "a/b/c"):
        with pytest.raises(ModelError, match="allowed: tiny, small, adder") as error:
            locate_model(name)
        assert name in one_line(error)
    with pytest.raises(ModelError, match=r"no config\.json"):
        locate_model(str(tmp_path / "empty"))
