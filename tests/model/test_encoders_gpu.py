"""On a GPU: encoder-decoder, bidirectional model and vision transformer in bfloat16, against float64 and compiled."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from ablate_model import GPT, BidirectionalConfig, EncoderDecoder, EncoderDecoderConfig, ViT, ViTConfig
from ablate_model.gpt import HeadedModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
SIZES: dict[str, Any] = {"d_model": 128, "n_layers": 2, "n_heads": 4}
TEXT = {**SIZES, "vocab_size": 64, "context_length": 64}
BFLOAT16 = 0.1  # of the largest logit: two layers of 8-bit mantissas
DRIFT = 0.1  # nats: fusion drops bfloat16 roundings
STEPS = 20


def ids(seed: int) -> Tensor:
    drawn = torch.randint(1, 64, (4, 64), generator=torch.Generator().manual_seed(seed))
    drawn[1, 40:] = 0
    return drawn.cuda()


def images() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).cuda()


CASES = pytest.mark.parametrize("normalization", ["prenorm", "ngpt"])
ATTENTIONS = pytest.mark.parametrize(
    "attention", ["standard", "differential", "differential_v2", "linear_ensemble", "gated", "sink"]
)
KINDS = pytest.mark.parametrize("kind", ["encoder_decoder", "bidirectional", "vit"])


def build(kind: str, **axes: str) -> HeadedModel:
    if kind == "encoder_decoder":
        return EncoderDecoder(EncoderDecoderConfig(**TEXT, **axes)).cuda()
    if kind == "bidirectional":
        return GPT(BidirectionalConfig(**TEXT, **axes)).cuda()
    return ViT(ViTConfig(**SIZES, **axes, image_size=32, patch_size=8, n_classes=10)).cuda()


def form_logits(model: HeadedModel) -> Tensor:
    if isinstance(model, EncoderDecoder):
        return model(ids(0), ids(1), padding=0)
    return model(ids(0), padding=0) if isinstance(model, GPT) else model(images().to(next(model.parameters()).dtype))


def loss(model: Any) -> Tensor:
    if isinstance(model, EncoderDecoder):
        return model.loss(ids(0), ids(1), ids(1).roll(-1, 1), 0)
    if isinstance(model, GPT):
        return model.loss(ids(0), ids(0), padding=0)
    return model.loss(images(), torch.arange(4).cuda())


@KINDS
@ATTENTIONS
@CASES
def test_bfloat16_is_near_float64(kind: str, attention: str, normalization: str) -> None:
    model = build(kind, attention=attention, normalization=normalization)
    exact = form_logits(copy.deepcopy(model).double())
    with torch.autocast("cuda", torch.bfloat16):
        out = form_logits(model)
    assert out.isfinite().all()
    assert (out.double() - exact).abs().max() <= BFLOAT16 * exact.abs().max()


@KINDS
@CASES
@pytest.mark.parametrize("attention", ["standard", "differential"])
def test_compiled_blocks_train_as_eager_ones(kind: str, attention: str, normalization: str) -> None:
    curves = []
    for is_compiled in (False, True):
        model = build(kind, attention=attention, normalization=normalization)
        if is_compiled:
            model.compile_blocks()
        optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=1e-3)
        losses = []
        for _ in range(STEPS):
            with torch.autocast("cuda", torch.bfloat16):
                value = loss(model)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            model.post_step()
            losses.append(value.item())
        curves.append(torch.tensor(losses))
    assert curves[0][-1] < curves[0][0]
    assert (curves[0] - curves[1]).abs().max() < DRIFT
