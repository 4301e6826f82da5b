"""AdamW, and clipping of the gradient, written out.

Kingma and Ba 2015, "Adam", algorithm 1, with its bias correction; Loshchilov and Hutter 2019, "Decoupled Weight Decay
Regularization", algorithm 2; Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", for the
clipping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


def norm(gradients: Mapping[str, Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together."""
    return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()


def clipped(gradients: Mapping[str, Tensor], max_norm: float) -> dict[str, Tensor]:
    """The gradients, scaled down so that their norm is at most ``max_norm``."""
    factor = torch.clamp(max_norm / norm(gradients), max=1.0)
    return {name: gradient * factor for name, gradient in gradients.items()}


@dataclass
class AdamW:
    """The optimizer's state: two moments per weight."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    num_steps: int = 0
    means: dict[str, Tensor] = field(default_factory=dict)
    squares: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def step(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], learning_rate: float) -> None:
        """Update ``weights`` in place."""
        self.num_steps += 1
        for name, gradient in gradients.items():
            zero = torch.zeros_like(gradient)
            mean = self.beta_1 * self.means.get(name, zero) + (1 - self.beta_1) * gradient
            square = self.beta_2 * self.squares.get(name, zero) + (1 - self.beta_2) * gradient * gradient
            self.means[name], self.squares[name] = mean, square
            mean = mean / (1 - self.beta_1**self.num_steps)
            square = square / (1 - self.beta_2**self.num_steps)
            weights[name].mul_(1 - learning_rate * self.weight_decay)
            weights[name].sub_(learning_rate * mean / (square.sqrt() + self.epsilon))
