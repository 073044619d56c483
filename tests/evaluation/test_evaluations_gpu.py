"""Evaluations on a GPU, where fused kernels compute the attention, give what they give on a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracles import build, subject, write_corpus

from ablate.evaluation.conditioning import Conditioning
from ablate.evaluation.in_context import InContext
from ablate.evaluation.needle import Needle
from ablate.evaluation.outliers import Outliers
from ablate.evaluation.quantization import Quantization
from ablate.evaluation.scoring import Request, score_requests

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
TEXT = b"Sphinx of black quartz, judge my vow; pack my box with five dozen liquor JUGS! " * 40
RELATIVE = 2e-2  # float32 kernels in other orders; rounding to few bits amplifies them


@pytest.mark.parametrize("attention", ["standard", "differential", "selective", "forgetting"])
@pytest.mark.parametrize("normalization", ["prenorm", "ngpt"])
def test_a_gpu_gives_the_same_rows(attention: str, normalization: str, tmp_path: Path) -> None:
    settings = {"attention": attention, "normalization": normalization, "d_model": 64, "n_heads": 2}
    corpus = write_corpus(tmp_path, TEXT, TEXT)
    asked = subject(build(**settings), corpus)
    on_gpu = replace(subject(build(**settings).to("cuda"), corpus), device=torch.device("cuda"))
    evaluations = (
        InContext(tokens=512, samples=4),
        Outliers(tokens=512),
        Needle(samples=4, cells=((2, 2),)),
        Conditioning(),
        Quantization(tokens=512, bits=(8,)),
    )
    for evaluation in evaluations:
        for there, here in zip(evaluation.evaluate(on_gpu), evaluation.evaluate(asked), strict=True):
            assert (there.metric, there.within, there.n) == (here.metric, here.within, here.n)
            assert there.value == pytest.approx(here.value, rel=RELATIVE, abs=RELATIVE)
    requests = [Request((1, 2, 3), (4, 5)), Request((1, 2, 3), (6,)), Request((7, 8), (9, 10, 11))]
    pairs = zip(
        score_requests(on_gpu.model, on_gpu.device, requests),  # type: ignore[arg-type]
        score_requests(asked.model, asked.device, requests),  # type: ignore[arg-type]
        strict=True,
    )
    for ours, expected in pairs:
        assert ours.log_likelihood == pytest.approx(expected.log_likelihood, abs=RELATIVE)
