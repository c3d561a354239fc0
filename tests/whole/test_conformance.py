"""Every record of the real frameworks matches, or stands in DEVIATIONS with its reason."""

import fnmatch

import pytest
from records import DEVIATIONS, FRAMEWORKS, difference, group, load

GROUPS = sorted({(framework, group(record)) for framework in FRAMEWORKS for record in load(framework)})


def deviates(framework: str, record: dict) -> bool:
    return any(framework == name and fnmatch.fnmatch(record["id"], pattern) for name, pattern, *_ in DEVIATIONS)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("framework", "name"), GROUPS)
def test_records_match(framework, name):
    records = [record for record in load(framework) if group(record) == name]
    wrong = {record["id"]: difference(framework, record) for record in records if not deviates(framework, record)}
    assert not {key: text for key, text in wrong.items() if text is not None}


@pytest.mark.usefixtures("x64")
def test_deviations_are_few_and_real():
    records = [(framework, record) for framework in FRAMEWORKS for record in load(framework)]
    deviating = [(framework, record) for framework, record in records if deviates(framework, record)]
    differing = {(framework, record["id"]) for framework, record in deviating if difference(framework, record)}
    assert len(DEVIATIONS) < 20
    assert len(differing) < 0.01 * len(records)
    for framework, pattern, *_ in DEVIATIONS:
        assert any(name == framework and fnmatch.fnmatch(found, pattern) for name, found in differing), pattern


def test_there_are_thousands_of_records():
    assert sum(len(load(framework)) for framework in FRAMEWORKS) >= 3500
