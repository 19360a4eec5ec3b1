"""What software takes that computes the scores which a causal mask hides like all the others, where an accelerator skips them.

Source: the attention of the golden model as PyTorch runs it: the whole product, minus infinity added where the mask hides, every pass of
softmax over all columns, the whole product with the values. Scalars and NumPy arrays broadcast.
"""

from __future__ import annotations

from hwmodels.chip import Number


def hidden_product_s(hidden_macs: Number, peak_macs_per_s: Number, masked_scores: Number, add_s: Number) -> Number:
    """Seconds [s] for products that the mask hides, and for the addition [s per element] that hides them among `masked_scores`; 0 of these
    for the product with the values."""
    return hidden_macs / peak_macs_per_s + masked_scores * add_s


def hidden_pass_s(hidden_scores: Number, score_s: Number, infinity_s: Number) -> Number:
    """Seconds [s] for the hidden scores of one pass of softmax that takes `score_s` for each, and `infinity_s` besides where its function
    of minus infinity takes longer than of a number."""
    return hidden_scores * (score_s + infinity_s)
