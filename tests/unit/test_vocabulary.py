"""Codes that we share with the world are the world's."""

import json
from pathlib import Path

from shared.vocabulary import DPV_RIGHT, LegalBasis, Right

TERMS = set(json.loads(Path("tests/data/dpv_terms.json").read_text("utf-8"))["terms"])


def test_every_legal_basis_is_a_dpv_term_except_the_unknown_one() -> None:
    assert {basis.value for basis in LegalBasis} - TERMS == {LegalBasis.UNKNOWN.value}


def test_every_right_has_a_dpv_term() -> None:
    assert set(DPV_RIGHT) == set(Right)
    assert set(DPV_RIGHT.values()) <= TERMS
