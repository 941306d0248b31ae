"""``did you mean ...?`` at the end of an error message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def suggest(given: str, known: Iterable[str], form: str = "{}", count: int = 1, cutoff: float = 0.6) -> str:
    """``; did you mean NAME?`` with the ``count`` names in ``known`` closest to ``given``; empty if none is close.

    Args:
        known: names, or a mapping from aliases to names.
        form: how a name is shown, as a format string.
        cutoff: of ``difflib.get_close_matches``.
    """
    import difflib  # not needed while all is well

    names = known if isinstance(known, Mapping) else {name: name for name in known}
    near = [form.format(names[alias]) for alias in difflib.get_close_matches(given, names, count, cutoff)]
    return f"; did you mean {' or '.join(near)}?" if near else ""
