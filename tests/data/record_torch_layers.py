"""Records what PyTorch's multi-head attention and bilinear layer compute, gradients included.

Run with PyTorch 2.13: `python record_torch_layers.py > torch_layers_2_13.json`. Inputs and weights are made by
`values`, here and in tests/test_torch.py, so that none is stored.
"""

import json
import sys

import torch


def values(*shape: int, number: int) -> torch.Tensor:
    """Sixteenths from -5/16 to 5/16."""
    count = torch.Size(shape).numel()
    return (((7 * torch.arange(count) + 3 * number + 1) % 11 - 5) / 16).reshape(shape)


def attention() -> dict[str, list]:
    """Self-attention of 4 steps, 2 samples, 8 features and 2 heads, under a mask of what comes later."""
    layer = torch.nn.MultiheadAttention(8, 2)
    with torch.no_grad():
        layer.in_proj_weight.copy_(values(24, 8, number=1))
        layer.in_proj_bias.copy_(values(24, number=2))
        layer.out_proj.weight.copy_(values(8, 8, number=3))
        layer.out_proj.bias.copy_(values(8, number=4))
    x = values(4, 2, 8, number=0).requires_grad_()
    mask = torch.triu(torch.full((4, 4), float("-inf")), diagonal=1)
    out, weights = layer(x, x, x, attn_mask=mask)
    (out * out).sum().backward()
    return {"out": out.tolist(), "weights": weights.tolist(), "gradient": x.grad.tolist()}


def bilinear() -> dict[str, list]:
    """A bilinear layer of 3 samples, 4 and 5 features, 2 outputs."""
    layer = torch.nn.Bilinear(4, 5, 2)
    with torch.no_grad():
        layer.weight.copy_(values(2, 4, 5, number=2))
        layer.bias.copy_(values(2, number=3))
    x1, x2 = values(3, 4, number=0).requires_grad_(), values(3, 5, number=1)
    out = layer(x1, x2)
    (out * out).sum().backward()
    return {"out": out.tolist(), "gradient": x1.grad.tolist()}


if __name__ == "__main__":
    json.dump({"torch": torch.__version__, "attention": attention(), "bilinear": bilinear()}, sys.stdout)
