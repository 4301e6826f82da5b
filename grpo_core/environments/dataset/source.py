"""A data set with all that plays it: rows, their order, environments and rewards."""

from __future__ import annotations

from dataclasses import dataclass

from grpo_core.config import DataConfig
from grpo_core.environments.dataset.environment import DatasetEnvironment
from grpo_core.environments.dataset.order import RowOrder
from grpo_core.environments.dataset.reward_function import load_rewards
from grpo_core.environments.dataset.rewards import Rewards
from grpo_core.environments.dataset.rows import Rows, read_rows


@dataclass(frozen=True, slots=True)
class DatasetFactory:
    """An ``EnvironmentFactory`` of one data set."""

    config: DataConfig
    rows: Rows
    rewards: Rewards

    @property
    def name(self) -> str:
        return f"dataset {self.rows.source}"

    @property
    def key(self) -> str:
        return self.name

    def __call__(self) -> DatasetEnvironment:
        return DatasetEnvironment(self.rows, self.config)

    def order(self, num_groups: int) -> RowOrder:
        """Which row each of ``num_groups`` places of a batch has."""
        return RowOrder(len(self.rows), num_groups, self.config.shuffle)


def open_dataset(config: DataConfig, key: str = "environment.data.path") -> DatasetFactory:
    """Read the rows and load the reward functions. ``key`` is the setting that names the rows.

    Raises:
        ConfigError, MissingPackageError: as ``read_rows`` and ``load_rewards``.
        EnvironmentCodeError: a module of reward functions fails when it is imported.
    """
    rows = read_rows(config, key)
    functions = load_rewards(config, rows.columns, source=rows.source)
    return DatasetFactory(config, rows, Rewards(functions, config.reward_timeout_s))
