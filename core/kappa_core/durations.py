"""Durations and quantities in Kubernetes' own notation: `30s`, `1h30m`, `128Mi`, `250m`.

Durations follow Go's `time.ParseDuration` without signs (what `metav1.Duration` reads); quantities follow
`k8s.io/apimachinery/pkg/api/resource`. Both raise `ValueError` with the text and the expected form.
"""

import math
import re
from decimal import Decimal
from typing import Final

DURATION_PATTERN: Final = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
QUANTITY_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][0-9]{1,2})?$"

_DURATION: Final = re.compile(DURATION_PATTERN)
_DURATION_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_QUANTITY: Final = re.compile(QUANTITY_PATTERN)
_QUANTITY_PART: Final = re.compile(r"([0-9.]+(?:[eE][0-9]+)?)(.*)")
_SECONDS: Final = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_FACTORS: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}


def parse_duration(text: str) -> float:
    """Seconds in a duration such as `1m30s`."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration: write a number and a unit, such as 500ms, 30s, 5m or 1h30m")
    return float(sum(Decimal(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text)))


def format_duration(seconds: float) -> str:
    """The shortest notation that reads back to the same milliseconds: 90 → `1m30s`, 0.25 → `250ms`."""
    milliseconds = round(seconds * 1000)
    parts = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, milliseconds = divmod(milliseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_quantity(text: str) -> Decimal:
    """The plain number in a quantity: `128Mi` → 134217728, `250m` → 0.25."""
    match = _QUANTITY_PART.fullmatch(text)
    if not match or not _QUANTITY.fullmatch(text):
        raise ValueError(f"{text!r} is not a quantity: write a number and a suffix, such as 128Mi, 1Gi, 250m or 2")
    return Decimal(match[1]) * _FACTORS[match[2]]


def mebibytes(text: str) -> int:
    """A memory quantity in whole MiB, rounded up: what Lambda calls the function's memory size."""
    return math.ceil(parse_quantity(text) / (1024 * 1024))
