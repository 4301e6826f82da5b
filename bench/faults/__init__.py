"""Faults to plant in the product, to prove that the phases detect them. None is active by default."""

from __future__ import annotations

from bench.faults import phase0, phase1, phase2, phase3, phase3_steps, phase4, phase5, phase6, seven
from bench.faults.fault import WRONG_ANSWERS, Fault

__all__ = ["FAULTS", "WRONG_ANSWERS", "Fault"]

FAULTS: tuple[Fault, ...] = (
    *phase0.FAULTS,
    *phase1.FAULTS,
    *phase2.FAULTS,
    *phase3.FAULTS,
    *phase3_steps.FAULTS,
    *phase4.FAULTS,
    *phase5.FAULTS,
    *phase6.FAULTS,
    *seven.FAULTS,
)
