"""The fast product is the plain one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from grpo_core.kernels.linear import FrozenLinear, freeze_linears, has_fast_linear, linear

SHAPES = [(0, 8, 4), (1, 8, 4), (3, 64, 96), (17, 256, 1792), (300, 896, 256)]


@pytest.mark.parametrize(("num_rows", "num_in", "num_out"), SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_is_the_plain_product(num_rows: int, num_in: int, num_out: int, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_rows, num_in, generator=generator)
    weight = torch.randn(num_out, num_in, generator=generator)
    bias = torch.randn(num_out, generator=generator) if has_bias else None
    exact = F.linear(x.double(), weight.double(), bias.double() if bias is not None else None)
    torch.testing.assert_close(linear(x, weight, bias), exact.float(), atol=1e-4, rtol=1e-5)


def test_takes_views() -> None:
    """Parts of a wider matrix, a transposed weight, more than two dimensions."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(6, 512, generator=generator)
    weight = torch.randn(300, 256, generator=generator)
    torch.testing.assert_close(
        linear(wide[:, 100:356], weight[7:99]), wide[:, 100:356] @ weight[7:99].T, atol=1e-4, rtol=1e-5
    )
    torch.testing.assert_close(linear(wide[:, :300], weight.T), wide[:, :300] @ weight, atol=1e-4, rtol=1e-5)
    assert linear(wide.view(2, 3, 512)[..., :256], weight).shape == (2, 3, 300)


def test_a_weight_with_gaps_between_its_rows_is_closed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN would take it as it is, a thousand times slower."""
    given: list[torch.Tensor] = []

    def watch(x: torch.Tensor, weight: torch.Tensor, *rest: object) -> torch.Tensor:
        given.append(weight)
        return F.linear(x, weight)

    monkeypatch.setattr("grpo_core.kernels.linear.onednn_linear", watch)
    wide, x = torch.randn(96, 2, 64), torch.randn(5, 64)
    torch.testing.assert_close(linear(x, wide[:, 1]), x @ wide[:, 1].T)
    torch.testing.assert_close(
        linear(x[:, :5] @ torch.ones(5, 96), wide[:, 1].t()), x[:, :5] @ torch.ones(5, 96) @ wide[:, 1]
    )
    linear(x, wide[:, 0].contiguous().t().contiguous().t())
    assert all(weight.is_contiguous() or weight.t().is_contiguous() for weight in given)
    assert len(given) == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_take_the_plain_path(dtype: torch.dtype) -> None:
    x, weight = torch.ones(2, 8, dtype=dtype), torch.ones(4, 8, dtype=dtype)
    assert not has_fast_linear(x)
    assert linear(x, weight).dtype == dtype


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_runs_on_onednn_where_it_is() -> None:
    """The operator is not part of torch's public API: this test says so when it changes."""
    x, weight = torch.ones(2, 8), torch.ones(4, 8)
    assert has_fast_linear(x)
    with torch.profiler.profile() as profile:
        linear(x, weight)
    assert "mkldnn::_linear_pointwise" in {event.name for event in profile.events() or ()}


def linears(*, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, nn.Linear]:
    """A plain linear module and a frozen one of the same weights."""
    plain, frozen = nn.Linear(48, 80, dtype=dtype), nn.Linear(48, 80, dtype=dtype)
    frozen.load_state_dict(plain.state_dict())
    frozen.requires_grad_(False)
    freeze_linears(nn.Sequential(frozen))
    assert isinstance(frozen, FrozenLinear)
    return plain, frozen


@pytest.mark.parametrize("shape", [(48,), (7, 48), (2, 3, 48)])
def test_a_frozen_linear_has_the_gradient_of_a_linear(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    plain, frozen = linears()
    x = torch.randn(shape)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [module(given) for module, given in zip((plain, frozen), inputs, strict=True)]
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()

    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-5, rtol=1e-5)
    assert frozen.weight.grad is None


@pytest.mark.parametrize("shape", [(48,), (1, 48), (7, 48), (8, 48), (2, 3, 48), (1, 1, 48), (0, 48)])
def test_the_output_of_a_frozen_linear_can_be_changed_in_place(shape: tuple[int, ...]) -> None:
    """OLMo clips queries, keys and values in place, and mixtures of experts add to the shared expert's output."""
    torch.manual_seed(0)
    inputs = [torch.randn(shape, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    outputs = [module(given).clamp_(-0.3, 0.3) for module, given in zip(linears(), inputs, strict=True)]
    for output in outputs:
        output.square().sum().backward()

    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-5, rtol=1e-5)


def test_a_frozen_linear_that_is_trained_is_a_linear() -> None:
    torch.manual_seed(0)
    plain, frozen = linears()
    frozen.requires_grad_(True)
    x = torch.randn(5, 48)
    for module in (plain, frozen):
        module(x).square().sum().backward()

    assert torch.equal(plain(x), frozen(x))
    assert plain.weight.grad is not None
    assert frozen.weight.grad is not None
    assert torch.equal(plain.weight.grad, frozen.weight.grad)


def test_a_frozen_linear_follows_autocast_and_other_types() -> None:
    torch.manual_seed(0)
    plain, frozen = linears()
    x = torch.randn(5, 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(plain(x), frozen(x))
        assert frozen(x).dtype == torch.bfloat16
    plain, frozen = linears(dtype=torch.float64)
    assert torch.equal(plain(x.double()), frozen(x.double()))


def test_only_frozen_linears_change_and_parameters_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    model[0].requires_grad_(False)
    before = dict(model.state_dict(keep_vars=True))
    freeze_linears(model)

    assert [type(module) for module in model] == [FrozenLinear, nn.Linear, nn.LayerNorm]
    assert all(value is before[name] for name, value in model.state_dict(keep_vars=True).items())
