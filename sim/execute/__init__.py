"""Executing a mapping on real tensors: what is timed is executed.

`execute_gemm` and `execute_attention` follow a mapping's fetch rule literally and tally, on the way, the MACs issued and the elements that
move on each level; `judge` says whether the result is the golden one. Nothing here knows a cost: no formula, no mapper, no engine is
imported, so that what is charged and what is tallied are two derivations.
"""

from sim.execute.arithmetic import Arithmetic
from sim.execute.attention import execute_attention
from sim.execute.gemm import execute_gemm
from sim.execute.judge import Judgement, gemm_bound, judge
from sim.execute.tally import Tally, Traffic

__all__ = ["Arithmetic", "Judgement", "Tally", "Traffic", "execute_attention", "execute_gemm", "gemm_bound", "judge"]
