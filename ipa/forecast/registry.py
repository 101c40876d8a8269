"""The forecasters by name; light to import."""

from __future__ import annotations

from ipa.plugins import Registry

LADDER, FORESIGHT = "ladder", "foresight"
# A forecaster is named by a class or function that makes it without arguments. The first two are no rungs:
# the whole ladder, and the future itself, which only a simulation knows.
FORECASTERS = Registry(
    "ipa.forecasters",
    "forecaster",
    {
        LADDER: "ipa.forecast.ladder:forecast",
        FORESIGHT: "ipa.simulate.run:Foresight",
        "window": "ipa.forecast.reactive:WindowMaximum",
        "level": "ipa.forecast.level:Level",
        "last": "ipa.forecast.reactive:LastValue",
    },
)
