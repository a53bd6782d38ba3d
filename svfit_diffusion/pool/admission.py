"""Whether a concept may enter a pool: the checks of load_concept, the slow ones once for each kind
of concept.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from ..concept import Concept
from ..families import Family
from ..pipeline import (
    Plan,
    basis_folders,
    check_base,
    check_basis,
    check_rows,
    unfuse_concepts,
)

MAX_TABLES = 16  # kinds of concepts whose self-check is remembered


class Admission:
    """The checks of one pipeline. folders: component -> where its basis lies, if not with the
    pipeline itself.
    """

    def __init__(self, pipe: Any, family: Family, basis_from: str | None) -> None:
        self.pipe, self.family, self.basis_from = pipe, family, basis_from
        self.folders = basis_folders(basis_from, family.components(pipe))
        self._tables: OrderedDict[tuple, tuple[Plan, np.ndarray]] = OrderedDict()

    def check(self, concept: Concept) -> Plan:
        """The plan of a concept that fits; ValueError for another one, as of load_concept."""
        kind = _kind(concept)
        if kind in self._tables:
            self._tables.move_to_end(kind)
            plan, table = self._tables[kind]
            check_rows(self.pipe, self.family, concept)
            check_basis(concept, table)
            return plan
        unfuse_concepts(self.pipe)
        *_, places, table = check_base(self.pipe, self.family, concept, self.basis_from)
        plan = Plan(tuple(places), concept.ranks, concept.common_size)
        self._tables[kind] = plan, table
        if len(self._tables) > MAX_TABLES:
            self._tables.popitem(last=False)
        return plan


def _kind(concept: Concept) -> tuple:
    """What concepts have in common that differ in values and words alone."""
    named = (concept.targets, concept.fingerprints)
    return (concept.family, concept.layout, concept.ranks, concept.common_size, bool(concept.check),
            *(tuple(sorted(mapping.items())) for mapping in named))  # fmt: skip
