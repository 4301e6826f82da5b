"""The fast product is the plain one."""

import pytest
import torch
from torch.nn import functional as F

from grpo_core.dense import has_fast_linear, linear

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
    """Parts of a wider matrix, a transposed weight."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(6, 512, generator=generator)
    weight = torch.randn(300, 256, generator=generator)
    torch.testing.assert_close(
        linear(wide[:, 100:356], weight[7:99]), wide[:, 100:356] @ weight[7:99].T, atol=1e-4, rtol=1e-5
    )
    torch.testing.assert_close(linear(wide[:, :300], weight.T), wide[:, :300] @ weight, atol=1e-4, rtol=1e-5)


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
