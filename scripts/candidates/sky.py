"""Places in the sky, as candidate files and catalogues print them; all in degrees, J2000."""

import math
import re

SEXAGESIMAL = re.compile(
    r"([+-]?)(\d{1,3}):(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?", re.ASCII
)  # seconds may be missing
DECIMAL = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)
OBLIQUITY = 84381.406 / 3600  # IAU 2006
# The galactic pole, and the longitude of the celestial one (Hipparcos catalogue, volume 1, 1.5.3).
POLE_RA, POLE_DEC, NORTH = 192.85948, 27.12825, 122.93192


def position(ra: str, dec: str) -> tuple[float, float] | None:
    """Right ascension and declination of what is printed, hours with colons or degrees without; None for
    what is no position."""
    places = [_degrees(ra.strip(), 15), _degrees(dec.strip(), 1)]
    if None in places or not (0 <= places[0] <= 360 and abs(places[1]) <= 90):
        return None
    return places[0], places[1]


def _degrees(text: str, per_unit: int) -> float | None:
    if DECIMAL.fullmatch(text):
        return float(text)
    if not (found := SEXAGESIMAL.fullmatch(text)):
        return None
    sign, whole, minutes, seconds = found.groups()
    size = (int(whole) + int(minutes) / 60 + float(seconds or 0) / 3600) * per_unit
    return -size if sign == "-" else size


def printed(ra: float, dec: float) -> tuple[str, str]:
    """As hh:mm:ss.ss and ±dd:mm:ss.s."""
    hundredths = round(ra / 15 * 360_000) % (24 * 360_000)
    tenths = round(abs(dec) * 36_000)
    hours, rest = divmod(hundredths, 360_000)
    whole, left = divmod(tenths, 36_000)
    return (
        f"{hours:02d}:{rest // 6000:02d}:{rest % 6000 / 100:05.2f}",
        f"{'-' if dec < 0 else '+'}{whole:02d}:{left // 600:02d}:{left % 600 / 10:04.1f}",
    )


def galactic(ra: float, dec: float) -> tuple[float, float]:
    """Longitude and latitude."""
    turn, height, pole = (math.radians(x) for x in (ra - POLE_RA, dec, POLE_DEC))
    latitude = math.sin(pole) * math.sin(height) + math.cos(pole) * math.cos(height) * math.cos(
        turn
    )
    longitude = math.atan2(
        math.cos(height) * math.sin(turn),
        math.cos(pole) * math.sin(height) - math.sin(pole) * math.cos(height) * math.cos(turn),
    )
    return (NORTH - math.degrees(longitude)) % 360, math.degrees(math.asin(_unit(latitude)))


def of_ecliptic(longitude: float, latitude: float) -> tuple[float, float]:
    """Right ascension and declination of ecliptic coordinates, as pulsar timing has them."""
    turn, height, tilt = (math.radians(x) for x in (longitude, latitude, OBLIQUITY))
    dec = math.sin(height) * math.cos(tilt) + math.cos(height) * math.sin(tilt) * math.sin(turn)
    ra = math.atan2(
        math.sin(turn) * math.cos(height) * math.cos(tilt) - math.sin(height) * math.sin(tilt),
        math.cos(turn) * math.cos(height),
    )
    return math.degrees(ra) % 360, math.degrees(math.asin(_unit(dec)))


def _unit(value: float) -> float:
    """What rounding has put beyond 1 is 1."""
    return max(-1.0, min(1.0, value))
