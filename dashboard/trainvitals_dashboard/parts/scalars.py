"""Curves of scalars that several charts of a board show, read by one request."""

from __future__ import annotations

from collections.abc import Sequence

from trainvitals.api.schema import Curve, Run
from trainvitals.wire import Stat, Stream
from trainvitals_dashboard.figures.nonfinite import COUNTS, with_nonfinite
from trainvitals_dashboard.parts.session import client


class Scalars:
    """The scalars `names` of a run, at most 50.

    The first call of `curves` reads all of them; calls for the same steps need no request then.
    The curves of the loss and of the gradient norm also have the steps at which they were not
    finite.
    """

    def __init__(self, run: Run, names: Sequence[str]) -> None:
        # Read now: a download is made outside a run of the script.
        self._source = client()
        self._run, self._names = run, names
        self._read_of: tuple[int | None, int | None, int] | None = None
        self._curves: dict[str, Curve] = {}

    def curves(
        self, names: Sequence[str], first: int | None, last: int | None, points: int
    ) -> list[Curve]:
        """Return the curves of some of the scalars that have a point in these steps.

        Other names are left out. Raises Problem if the collector does not answer.
        """
        asked = first, last, points
        names = [name for name in names if name in self._names]
        if not names:
            return []
        if self._read_of is None:
            self._curves = self._read(self._names, *asked)
            self._read_of = asked
        found = self._curves if asked == self._read_of else self._read(names, *asked)
        return [found[name] for name in names if name in found]

    def _read(
        self, names: Sequence[str], first: int | None, last: int | None, points: int
    ) -> dict[str, Curve]:
        layout = self._source.layout(self._run).value.of(Stream.SCALAR)
        known = {place.name for place in layout.places} if layout else set()
        counts = {name: COUNTS[name] for name in names if COUNTS.get(name) in known}
        answer = self._source.series(
            self._run,
            Stream.SCALAR,
            Stat.VALUE,
            [*names, *(count for count in counts.values() if count not in names)],
            from_step=first,
            to_step=last,
            points=points,
        )
        found = {curve.place: curve for curve in answer.value.series}
        for name, count in counts.items():
            found[name] = with_nonfinite(found[name], found[count])
        return {name: curve for name, curve in found.items() if curve.step}
