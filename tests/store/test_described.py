from __future__ import annotations

import pytest

from halflife.errors import UserError
from halflife.kits import backdoor
from halflife.store.described import described


def test_each_field_has_its_type_its_default_and_what_the_source_says_of_it():
    rows = list(described("kits.backdoor.Treatment"))
    assert [row.partition(":")[0] for row in rows] == list(backdoor.Treatment.__dataclass_fields__)
    assert "documents: int = 250  Unique poisoned documents in the trunk." in rows
    inherited = list(described("stages.train.Train"))
    assert "tokens: int  Length of the stage; rounded up to whole steps." in inherited


def test_a_module_lists_its_own_classes():
    assert list(described("halflife.kits.backdoor")) == ["Settings", "Treatment", "Cell"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("kits.backdoor.Treatmnt", ", did you mean Treatment.*; kits.backdoor has Settings, Treatment, Cell"),
        ("nothing", "expected a module below halflife, as in kits.backdoor"),
        ("kits.nothing.Train", "expected a module below halflife, as in kits.backdoor"),
    ],
)
def test_what_is_not_there_is_one_line(given: str, said: str):
    with pytest.raises(UserError, match=said):
        list(described(given))
