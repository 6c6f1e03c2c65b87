"""The small values of the user's file: text, numbers, durations, shares, sizes, names, addresses.

Each is read once, from what YAML gave, into what the rest of rebake uses (integers of milliseconds, basis points,
bytes), and each carries its own JSON Schema. A value that does not fit raises an error with one of our codes; `report`
adds the place and what was found there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from rebake.core import units
from rebake.judge.metric_rules import REQUESTS
from rebake.judge.selectors import PLACEHOLDERS, parse_selector, placeholders_in
from rebake.rollout.gates import DAYS, zone_of

_LONGEST = 40  # no duration, share, size or address in use is longer; a longer one is refused before it is parsed


class SourceInt(int):
    """An integer that remembers how the file spells it."""

    text: str


class SourceFloat(float):
    """A number that remembers how the file spells it."""

    text: str


def mistaken(
    code: str, expected: str, *, found: str | None = None, remedy: str | None = None, problem: str | None = None
) -> PydanticCustomError:
    """A mistake at the value being read: "expected …, found …", or `problem` as it stands."""
    return PydanticCustomError(
        code,
        "{expected}",
        {"expected": expected, "found": found, "remedy": remedy, "problem": problem},
    )


@dataclass(frozen=True, eq=False)
class Rule:
    """How one value is read, and its JSON Schema."""

    read: Callable[[Any], Any]
    schema: Mapping[str, Any] = field(default_factory=dict)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(
        self, core: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(self.schema)


def number_text(value: Any) -> str | None:
    """A number as the file spells it; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return str(getattr(value, "text", value))


def read_text(value: Any) -> str:
    """Text. A number is taken as it is spelled; what YAML reads as true or false is refused: `no` becomes `false`."""
    if isinstance(value, str):
        return value
    text = number_text(value)
    if text is not None:
        return text
    if isinstance(value, bool):
        raise mistaken("text-needs-quotes", "text", remedy="put the value in quotes")
    raise mistaken("wrong-type", "text")


def _read_filled(value: Any) -> str:
    text = read_text(value)
    if not text.strip():
        raise mistaken("wrong-type", "text with at least one letter")
    return text


def _word(value: Any, code: str, expected: str) -> str:
    """The text of a short value, or a mistake."""
    if not isinstance(value, str) or len(value) > _LONGEST or not value.isascii():
        raise mistaken(code, expected)
    return value.strip()


# --- units -----------------------------------------------------------------------------------------------------------

_DURATION_WORDS = {"ms": "ms", "d": "d"} | {
    word: unit
    for unit, words in {
        "ms": "msec msecs millis millisecond milliseconds",
        "s": "s sec secs second seconds",
        "m": "m min mins minute minutes",
        "h": "h hr hrs hour hours",
        "d": "day days",
    }.items()
    for word in words.split()
}
_SIZE_WORDS = {"": "B", "b": "B", "byte": "B", "bytes": "B"} | {
    word: unit
    for unit in ("KiB", "MiB", "GiB", "TiB")
    for word in (unit[0].lower(), f"{unit[0].lower()}b", f"{unit[0].lower()}i", unit.lower())
}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z%]*)")


@dataclass(frozen=True, eq=False)
class Unit(Rule):
    """A number with its unit, within bounds. `write` spells it as the file does."""

    write: Callable[[int], str] = str
    least: str = ""
    most: str = ""


@dataclass(frozen=True)
class _Amount:
    """One kind of unit: how it is parsed, what it is called, and how to guess what a wrong one was meant to be."""

    what: str
    example: str
    parse: Callable[[str], int]
    near: Callable[[Any], str | None]


def _bounded(amount: _Amount, least: str, most: str) -> Callable[[Any], int]:
    """A reader of one unit: refuses a bare number, another unit and what is out of bounds."""
    what, example, parse, near = amount.what, amount.example, amount.parse, amount.near
    code = f"wrong-{what}"

    def read(value: Any) -> int:
        closest = near(value)
        remedy = f"did you mean {closest}?" if closest else None
        if number_text(value) is not None:
            raise mistaken(code, f"a {what} with its unit, such as {example}", remedy=remedy)
        word = _word(value, code, f"a {what} such as {example}")
        try:
            number = parse(word)
        except ValueError:
            above = what == "share" and _AMOUNT.fullmatch(word) and word.endswith("%")
            expected = f"a share of at most {most}" if above else f"a {what} such as {example}"
            raise mistaken(code, expected, remedy=remedy) from None
        if not parse(least) <= number <= parse(most):
            raise mistaken(code, f"a {what} from {least} to {most}")
        return number

    return read


def _near(words: Mapping[str, str], bare: str) -> Callable[[Any], str | None]:
    """The nearest valid spelling of an amount: `10 secs` is `10s`, and a bare 10 is 10 of the usual unit."""

    def near(value: Any) -> str | None:
        match = _AMOUNT.fullmatch((number_text(value) or str(value)).strip()) if value is not None else None
        if match is None:
            return None
        unit = bare if not match[2] else words.get(match[2].lower())
        return f"{match[1]}{unit}" if unit else None

    return near


def _near_share(value: Any) -> str | None:
    """A bare 5 is 5%, and 0.05 is 5% too."""
    match = _AMOUNT.fullmatch((number_text(value) or str(value)).strip())
    if match is None or match[2] not in ("", "%") or len(match[1]) > 12:
        return None
    amount = Decimal(match[1])
    percent = amount * 100 if not match[2] and 0 < amount < 1 else amount
    return f"{percent.normalize():f}%" if 0 < percent <= 100 else None


_DURATION = _Amount("duration", "10s", units.parse_duration, _near(_DURATION_WORDS, "s"))
_SHARE = _Amount("share", "5%", units.parse_share, _near_share)
_SIZE = _Amount("size", "256MiB", units.parse_size, _near(_SIZE_WORDS, "MiB"))
_NUMBER = r"[0-9]+(\.[0-9]+)?\s*"


def durations(least: str = "0s", most: str = "365d") -> Unit:
    """Milliseconds, spelled `500ms`, `10s`, `5m`, `2h`, `1d`."""
    return Unit(
        _bounded(_DURATION, least, most),
        {"type": "string", "pattern": rf"^\s*{_NUMBER}(ms|s|m|h|d)\s*$", "examples": ["500ms", "10s", "5m"]},
        units.format_duration,
        least,
        most,
    )


def shares(least: str = "0%", most: str = "100%") -> Unit:
    """Basis points, spelled `5%` or `0.1%`."""
    schema = {"type": "string", "pattern": rf"^\s*{_NUMBER}%\s*$", "examples": ["5%", "0.1%"]}
    return Unit(_bounded(_SHARE, least, most), schema, units.format_share, least, most)


def share_of(value: Any) -> int | None:
    """Basis points of a share as it is written; None for what is none."""
    try:
        return units.parse_share(value) if isinstance(value, str) and len(value) < _LONGEST else None
    except ValueError:
        return None


def sizes(least: str = "1MiB", most: str = "16TiB") -> Unit:
    """Bytes, spelled `256MiB` or `1GiB`."""
    schema = {"type": "string", "pattern": rf"^\s*{_NUMBER}(B|KiB|MiB|GiB|TiB)\s*$", "examples": ["256MiB", "1GiB"]}
    return Unit(_bounded(_SIZE, least, most), schema, str, least, most)


def thousandths(least: float, most: float) -> Unit:
    """Thousandths, spelled as a plain number: 0.5 or 1.1."""
    expected = f"a number from {least:g} to {most:g}, with at most three decimals"

    def read(value: Any) -> int:
        text = number_text(value)
        if text is None or len(text) > _LONGEST:
            raise mistaken("out-of-range", expected)
        amount = Decimal(text) * 1000
        if amount != amount.to_integral_value() or not least * 1000 <= amount <= most * 1000:
            raise mistaken("out-of-range", expected)
        return int(amount)

    return Unit(read, {"type": "number", "minimum": least, "maximum": most}, lambda m: f"{m / 1000:g}")


def wholes(least: int, most: int) -> Rule:
    """A whole number within bounds."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise mistaken("out-of-range", f"a whole number from {least} to {most}")
        return int(value)

    return Rule(read, {"type": "integer", "minimum": least, "maximum": most})


# --- days, times, zones --------------------------------------------------------------------------------------------

_LONG_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def _read_day(value: Any) -> int:
    text = read_text(value).strip().lower()
    if text not in DAYS:
        near = next((day[:3] for day in _LONG_DAYS if day == text or (len(text) > 1 and day.startswith(text))), None)
        raise mistaken("wrong-day", f"one of {', '.join(DAYS)}", remedy=f"did you mean {near}?" if near else None)
    return DAYS.index(text)


def _clock(value: Any, latest: str) -> int:
    """Minutes since midnight."""
    text = read_text(value).strip()
    match = re.fullmatch(r"([0-9]{1,2}):([0-9]{2})", text)
    minutes = int(match[1]) * 60 + int(match[2]) if match and int(match[2]) < 60 else -1
    if not 0 <= minutes <= int(latest[:2]) * 60 + int(latest[3:]):
        near = re.fullmatch(r"([0-9]{1,2})([0-9]{2})?", text)
        remedy = f"did you mean {int(near[1]):02}:{near[2] or '00'}?" if near and int(near[1]) < 24 else None
        raise mistaken("wrong-time", f"a time of the day from 00:00 to {latest}, such as 09:00", remedy=remedy)
    return minutes


def _read_zone(value: Any) -> str:
    text = read_text(value).strip()
    if zone_of(text) is None:
        near = get_close_matches(text, sorted(available_timezones()), 1, 0.6)
        remedy = f"did you mean {near[0]}?" if near else None
        raise mistaken("unknown-zone", "a time zone such as UTC or Europe/Berlin", remedy=remedy)
    return text


def _read_moment(value: Any) -> str:
    """`2026-12-24` or `2026-12-24 18:00`, as it is spelled: which moment that is depends on the zone."""
    text = read_text(value).strip()
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2})?", text):
            raise ValueError(text)
        datetime.fromisoformat(text)
    except ValueError:
        raise mistaken("wrong-date", "a date such as 2026-12-24, or with a time: 2026-12-24 18:00") from None
    return text


def _read_cron(value: Any) -> str:
    from rebake.rollout.schedule import mistake_in

    text = " ".join(read_text(value).split())
    problem = mistake_in(text)
    if problem is not None:
        wanted = "a cron line: minute, hour, day, month, day of the week, such as 30 3 * * *"
        raise mistaken("wrong-schedule", "", problem=f"expected {wanted}, found {text[:60]!r}: {problem}")
    return text


Day = Annotated[int, Rule(_read_day, {"enum": list(DAYS)})]


def _times(latest: str) -> Unit:
    """Minutes since midnight, spelled `09:00`."""
    schema = {"type": "string", "pattern": r"^\s*[0-9]{1,2}:[0-9]{2}\s*$", "examples": ["09:00"]}
    return Unit(lambda value: _clock(value, latest), schema, lambda m: f"{m // 60:02}:{m % 60:02}", "00:00", latest)


Opening = Annotated[int, _times("23:59")]
Closing = Annotated[int, _times("24:00")]
Zone = Annotated[str, Rule(_read_zone, {"type": "string", "examples": ["UTC", "Europe/Berlin"]})]
Cron = Annotated[str, Rule(_read_cron, {"type": "string", "examples": ["30 3 * * *", "*/15 8-18 * * mon-fri"]})]
Moment = Annotated[str, Rule(_read_moment, {"type": "string", "examples": ["2026-12-24", "2026-12-24 18:00"]})]

# --- names, paths, addresses -----------------------------------------------------------------------------------------

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


def sanitised(text: str, fallback: str = "service") -> str:
    """The nearest valid name.

    >>> sanitised("My Shop_2")
    'my-shop-2'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or fallback


def _read_name(value: Any) -> str:
    text = read_text(value)
    if not NAME.fullmatch(text):
        near = sanitised(text, "")
        raise mistaken(
            "wrong-name",
            "a name of 1 to 63 lower-case letters, digits and inner hyphens",
            found=f'"{text[:70]}"',
            remedy=f"did you mean {near}?" if near else None,
        )
    return text


_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_OBJECT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def _read_object_name(value: Any) -> str:
    """The name of an object of a cluster. Source: Kubernetes, "Object Names and IDs", DNS subdomain names."""
    text = read_text(value)
    if not _OBJECT.fullmatch(text):
        raise mistaken("wrong-name", "a name of lower-case letters, digits, dots and hyphens", found=f'"{text[:70]}"')
    return text


def _read_hostname(value: Any) -> str:
    text = read_text(value)
    if not _HOST.fullmatch(text) or len(text) > 253:
        remedy = f"did you mean {text.lower()}?" if _HOST.fullmatch(text.lower()) else None
        expected = "a host name such as shop.example or *.shop.example"
        raise mistaken("wrong-hostname", expected, found=f'"{text[:70]}"', remedy=remedy)
    return text


def _read_label(value: Any) -> str:
    """A label's value. Source: Kubernetes, "Labels and Selectors"."""
    text = read_text(value)
    if text and not _LABEL.fullmatch(text):
        expected = "up to 63 letters, digits, dots, hyphens and underscores, the first and last no sign"
        raise mistaken("wrong-label", expected, found=f'"{text[:70]}"')
    return text


def _read_label_name(value: Any) -> str:
    """A label's name, with a prefix if any; those of rebake and of Kubernetes are taken."""
    text = read_text(value)
    prefix, slash, name = text.rpartition("/")
    if not _LABEL.fullmatch(name) or (slash and not _OBJECT.fullmatch(prefix)):
        raise mistaken("wrong-label", "a label such as team or example.com/team", found=f'"{text[:70]}"')
    if prefix in ("rebake.dev", "app.kubernetes.io") or prefix.endswith("kubernetes.io"):
        raise mistaken("wrong-label", "a label of your own", found=f"{text}, which rebake or Kubernetes sets")
    return text


def _read_variable(value: Any) -> str:
    text = read_text(value)
    if not VARIABLE.fullmatch(text):
        raise mistaken(
            "wrong-variable-name",
            "the name of an environment variable (letters, digits and _, not starting with a digit)",
            found=f'"{text[:70]}"',
        )
    return text


def _read_url_path(value: Any) -> str:
    text = read_text(value)
    if not text.startswith("/") or re.search(r"\s", text):
        remedy = f"did you mean /{text}?" if re.fullmatch(r"[^\s/:][^\s:]*", text) else None
        raise mistaken("wrong-path", "a path that starts with / and has no blanks, such as /healthz", remedy=remedy)
    return text


def _read_absolute(value: Any) -> str:
    text = read_text(value)
    if not text.startswith("/"):
        raise mistaken("wrong-path", "an absolute path such as /run/secrets/token")
    return text


def split_listen(text: str) -> tuple[str, int]:
    """Host and port of a listen address. Raises: ValueError with the nearest valid spelling, or nothing.

    >>> split_listen("127.0.0.1:8080"), split_listen("[::1]:80")
    (('127.0.0.1', 8080), ('::1', 80))
    """
    host, colon, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("")
    if not colon:
        raise ValueError(f"127.0.0.1:{port}")
    if host in ("localhost", ""):
        raise ValueError(f"127.0.0.1:{port}" if host else f"0.0.0.0:{port}")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError("") from None
    if (address.version == 6) != (bare != host):
        raise ValueError(f"[{bare}]:{port}" if address.version == 6 else f"{bare}:{port}")
    return bare, int(port)


def _read_listen(value: Any) -> str:
    expected = "an IP address and a port from 1 to 65535, such as 127.0.0.1:8080"
    word = _word(number_text(value) or value, "wrong-listen", expected)
    try:
        split_listen(word)
    except ValueError as error:
        near = str(error)
        raise mistaken("wrong-listen", expected, remedy=f"did you mean {near}?" if near else None) from None
    return word


def _read_web_url(value: Any) -> str:
    text = read_text(value)
    expected = "the URL of a server, such as http://127.0.0.1:9090"
    try:
        parts = urlsplit(text)
        port = parts.port  # noqa: F841  (raises for what is no port)
    except ValueError:
        raise mistaken("wrong-url", expected) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", text):
        remedy = f"did you mean http://{text}?" if re.fullmatch(r"[\w.-]+:[0-9]+(/\S*)?", text) else None
        raise mistaken("wrong-url", expected, remedy=remedy)
    if parts.username or parts.query or parts.fragment:
        problem = "expected a URL without user, password and query, found one with"
        raise mistaken("wrong-url", expected, problem=problem, remedy="put a token into a file: token_file")
    return text


def _read_selector(value: Any) -> str:
    text = read_text(value)
    try:
        parse_selector(text)
    except ValueError as error:
        raise mistaken("wrong-selector", str(error)) from None
    return text


def _read_total(value: Any) -> str:
    return REQUESTS if value == REQUESTS else _read_selector(value)


def _read_query(value: Any) -> str:
    """A query whose placeholders are all known."""
    text = _read_filled(value)
    for name in placeholders_in(text):
        if name not in PLACEHOLDERS:
            known = ", ".join(f"${known}" for known in PLACEHOLDERS)
            close = get_close_matches(name, PLACEHOLDERS, 1)
            remedy = f"did you mean ${close[0]}?" if close else "write $$ for a dollar sign"
            raise mistaken("unknown-placeholder", f"one of {known}", found=f"${name}", remedy=remedy)
    return text


_ALREADY_A_RATE = re.compile(r"\b(rate|irate|increase|delta|idelta|deriv)\s*\(")


def _read_counter_query(value: Any) -> str:
    """A query that gives counters as they stand."""
    if value == REQUESTS:
        return REQUESTS
    text = _read_query(value)
    if found := _ALREADY_A_RATE.search(text):
        remedy = f"remove {found[1]}(…[…]): rebake takes the differences itself, so that each event counts once"
        raise mistaken("counter-needed", "a counter as it stands", found=f"{found[1]}(…) of one", remedy=remedy)
    return text


def one_of(code: str, known: Sequence[str], what: str, remedy: str) -> Callable[[Any], Any]:
    """Refuses, with its own sentence, a value that rebake knows and this version cannot do yet."""

    def read(value: Any) -> Any:
        if isinstance(value, str) and value in known:
            problem = f"the {what} {value} is not available in this version of rebake"
            raise mistaken(code, "", problem=problem, remedy=remedy)
        return value

    return read


Text = Annotated[str, Rule(read_text, {"type": ["string", "number"]})]
Filled = Annotated[str, Rule(_read_filled, {"type": ["string", "number"], "minLength": 1})]
Name = Annotated[str, Rule(_read_name, {"type": ["string", "number"], "pattern": f"^{NAME.pattern}$"})]
ObjectName = Annotated[str, Rule(_read_object_name, {"type": "string", "pattern": f"^{_OBJECT.pattern}$"})]
Hostname = Annotated[str, Rule(_read_hostname, {"type": "string", "pattern": r"^(\*\.)?[a-z0-9.-]+$"})]
LabelName = Annotated[str, Rule(_read_label_name, {"type": "string", "pattern": r"^[A-Za-z0-9./_-]+$"})]
LabelValue = Annotated[str, Rule(_read_label, {"type": ["string", "number"]})]
Variable = Annotated[str, Rule(_read_variable, {"type": "string", "pattern": f"^{VARIABLE.pattern}$"})]
UrlPath = Annotated[str, Rule(_read_url_path, {"type": "string", "pattern": r"^/\S*$"})]
AbsolutePath = Annotated[str, Rule(_read_absolute, {"type": "string", "pattern": "^/"})]
WebUrl = Annotated[str, Rule(_read_web_url, {"type": "string", "pattern": r"^https?://\S+$"})]
Selector = Annotated[str, Rule(_read_selector, {"type": "string", "minLength": 1})]
Total = Annotated[str, Rule(_read_total, {"type": "string", "minLength": 1})]
Query = Annotated[str, Rule(_read_query, {"type": "string", "minLength": 1})]
CounterQuery = Annotated[str, Rule(_read_counter_query, {"type": "string", "minLength": 1})]
Listen = Annotated[str, Rule(_read_listen, {"type": "string", "pattern": r"^\s*\S+:[0-9]{1,5}\s*$"})]
