"""Progress is shown to readers, and to no log."""

import sys
from types import SimpleNamespace

import pytest

from memembed import progress


@pytest.fixture
def in_a_kernel(monkeypatch):
    shell = SimpleNamespace(kernel=object())
    ipython = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    for name in progress.OPENED_BY_A_READER:
        monkeypatch.delenv(name, raising=False)


def stream(is_terminal):
    return SimpleNamespace(isatty=lambda: is_terminal)


def test_in_a_terminal_but_not_in_a_log():
    assert progress.is_watched(stream(True))
    assert not progress.is_watched(stream(False))


@pytest.mark.parametrize("name", progress.OPENED_BY_A_READER)
def test_in_a_notebook_that_a_reader_has_opened(in_a_kernel, monkeypatch, name):
    assert not progress.is_watched(stream(False))  # run for the book
    monkeypatch.setenv(name, "x")
    assert progress.is_watched(stream(False))


@pytest.mark.parametrize("watched", [True, False])
def test_a_bar_is_silent_where_nobody_watches(monkeypatch, capsys, watched):
    monkeypatch.setattr(progress, "is_watched", lambda stream: watched)
    assert list(progress.bar(range(3), "counting")) == [0, 1, 2]
    assert ("counting: 100%" in capsys.readouterr().err) == watched
