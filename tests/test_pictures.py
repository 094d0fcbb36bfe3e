"""The committed pictures show what is stored."""

import re

import pytest

import pictures


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_is_up_to_date(name):
    drawn = (pictures.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    (found,) = re.findall("<dc:description>(.*?)</dc:description>", drawn)
    assert found == pictures.digest(name), "run `make pictures`"


def test_there_are_no_others():
    names = {file.stem for file in pictures.FOLDER.iterdir()}
    assert names == set(pictures.PICTURES)


def test_all_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "FOLDER", tmp_path)
    pictures.main()
    for name in pictures.PICTURES:
        assert pictures.digest(name) in (tmp_path / f"{name}.svg").read_text()
