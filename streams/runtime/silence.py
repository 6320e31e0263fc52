"""How long the group was not polled, and because of which operator: so that a lost membership is explained."""

from streams.runtime.watchdog import Place
from streams.settings import Settings

_REMEMBERED = 60.0  # seconds: the loss is often noticed some turns after the silence


class Silences:
    """The longest time without a poll of the group, lately.

    >>> from streams.settings import Settings
    >>> place = Place(); silences = Silences(place); silences.after(100.0)
    >>> place.spent["0/1", "map-1"] = 69.0; silences.before(170.0); silences.after(170.0)
    >>> print(silences.hint(171.0, 60.0, Settings()))  # doctest: +ELLIPSIS
    the worker did not poll its group for 70.0 s, longer than the 60.0 s after which ...
    >>> silences.hint(171.0, 60.0, Settings())
    ''
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._polled: float | None = None
        self._longest, self._at, self._who = 0.0, 0.0, ""

    def before(self, now: float) -> None:
        """The group is about to be polled."""
        if self._polled is not None:
            silent = now - self._polled
            if silent > self._longest or now - self._at > _REMEMBERED:
                self._longest, self._at, self._who = silent, now, self._place.slowest()

    def after(self, now: float) -> None:
        """The group was polled. What was revoked meanwhile was committed within the call."""
        self._polled = now
        self._place.spent.clear()

    def hint(self, now: float, patience: float, settings: Settings) -> str:
        """What a lost membership has to do with the silence; "" if nothing. Said once for each silence."""
        self.before(now)  # the loss may show in the commit after the batch that took too long
        if self._longest < patience or now - self._at > _REMEMBERED:
            return ""
        silent, who, self._longest = self._longest, self._who, 0.0
        self._polled = None
        fix = f"make poll_records smaller (it is {settings.poll_records:,})"
        if settings.brokers:
            fix += ', or give Kafka\'s "max.poll.interval.ms" in the table [kafka] of the settings a larger value'
        return (
            f"the worker did not poll its group for {silent:.1f} s, longer than the {patience:.1f} s after which the "
            f"group gives its tasks to others{': ' + who if who else ''}. Make that function faster, {fix}"
        )
