"""Model FLOPs: what the mathematics of a step needs, whoever computes it and however.

Counted are the linear layers, for real tokens only: 2 P forward (P their weights), 2 P for the gradient of their inputs
in layers at or above the lowest trained one, 2 P for the gradient of trained weights. Not counted: attention's own
products, embeddings, norms, adapters' thin factors, the optimizer. The frozen part counts in every epoch and for
everybody: who keeps its outputs gets a higher figure than his machine has computed, which is the point of keeping them.
"""

from __future__ import annotations

from bench.decoder import SIZES, VOCABULARY

FORMULA = (
    "MFU = real tokens/s x model FLOPs a token / peak; model FLOPs a token = 2 P forward + 2 P input gradients from the "
    "lowest trained layer up + 2 P weight gradients where trained, P = weights of the linear layers; attention, "
    "embeddings and adapters not counted; peak = best bf16 product measured at the start"
)
MINILM_LINEAR = 6 * (4 * 384**2 + 2 * 384 * 1536)


def per_token(linear: float, *, gradient: float, trained: float) -> float:
    """Return FLOPs a token of ``linear`` weights.

    Args:
        linear: number of weights.
        gradient: share of them in layers that a gradient passes through.
        trained: share of them that is trained.
    """
    return linear * (2.0 + 2.0 * gradient + 2.0 * trained)


def of_job(job: str, *, answer_share: float = 1.0) -> float:
    """Return the FLOPs of a real token in ``job``, 0 where a token says little.

    Args:
        job: its name.
        answer_share: of a decoder's tokens that have a loss, and so need logits.
    """
    shares = {
        "full": (1.0, 1.0),
        "lora": (1.0, 0.0),
        "top2": (1 / 3, 1 / 3),
        "head": (0.0, 0.0),
        "predict": (0.0, 0.0),
    }
    if job in SIZES:
        head = per_token(SIZES[job].width * VOCABULARY, gradient=1.0, trained=0.0) * answer_share
        return per_token(SIZES[job].linear, gradient=1.0, trained=0.0) + head
    if job not in shares:
        return 0.0
    gradient, trained = shares[job]
    return per_token(MINILM_LINEAR, gradient=gradient, trained=trained)
