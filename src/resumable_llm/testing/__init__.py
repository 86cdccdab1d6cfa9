"""Faults for tests: plans as plain data and a real TCP proxy that carries them out.

It knows HTTP and bytes only, nothing of how the package resumes.
"""

from __future__ import annotations

from resumable_llm.testing.exchange import RequestRecord
from resumable_llm.testing.plan import Fault, FaultPlan
from resumable_llm.testing.proxy import FaultProxy

__all__ = ["Fault", "FaultPlan", "FaultProxy", "RequestRecord"]
