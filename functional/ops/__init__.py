"""The op table: each op declared once, with its PyTorch implementation, shape rule, inherent work and an example.

Contract tests run over every op registered here: traced shape equals computed shape, declared work equals a tally kept while the
implementation runs. PyTorch is imported only when something is computed. Vector ops convert to fp32, compute and convert back, and are
charged for it.
"""

from functional.ops import attention, dense, sampling  # noqa: F401 (to be imported is to be registered)
from functional.ops.attention import hide
from functional.ops.sampling import SAMPLING_KINDS
from functional.ops.table import OPS, Example, Op
from functional.ops.views import LAST_TOKEN, MERGE_HEADS, RECENT, SPLIT_HEADS, View

__all__ = ["LAST_TOKEN", "MERGE_HEADS", "OPS", "RECENT", "SAMPLING_KINDS", "SPLIT_HEADS", "Example", "Op", "View", "hide"]
