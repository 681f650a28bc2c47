"""Holds a picture against the rules of a profile: one finding a rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from api_schemas.profiles import (
    BytesRule,
    ColourSpaceRule,
    Finding,
    FormatRule,
    JpegQualityRule,
    MegapixelsRule,
    NoBorderRule,
    OpaqueRule,
    ProductShareRule,
    ProductWholeRule,
    Profile,
    ProfileReport,
    RatioRule,
    Rule,
    RuleResult,
    SideRule,
    SingleFrameRule,
    UncheckedRule,
    WhiteBackgroundRule,
)
from profiles.frame import FrameKind, frame_of
from profiles.picture import SRGB, Picture
from profiles.scene import PLAIN, Scene, border_of, lowest_of, scene, share, white_shares

_FULL = 255
_MILLION = 1_000_000
_UNKNOWN = "no plain background and no matte: what is product is unknown"
_NOTHING = "nothing stands on the background"
_RECTANGLE = "a margin around a rectangle: a frame, or the background of a rectangular product"
Value = float | int | str | None


def check(profile: Profile, picture: Picture, matte: Image.Image | None = None) -> ProfileReport:
    """What ``picture`` is by each rule. ``matte`` tells the product, where it is known: mode L, 255 = product, of the picture's size."""
    if matte is not None and matte.size != picture.rgb.size:
        raise ValueError(f"a matte of {matte.size} does not fit a picture of {picture.rgb.size}")
    measured = _Measured(picture, matte)
    return ProfileReport(name=profile.name, rules=tuple(_finding(rule, measured) for rule in profile.rules))


@dataclass(frozen=True, eq=False)
class _Measured:
    """A picture, and what several rules ask of it, found once."""

    picture: Picture
    matte: Image.Image | None

    @cached_property
    def scene(self) -> Scene | None:
        return scene(self.picture, self.matte)


@dataclass(frozen=True)
class _Outcome:
    result: RuleResult
    value: Value = None
    limit: str | None = None
    reason: str | None = None


def _judged(value: Value, limit: str, *, ok: bool, reason: str | None = None) -> _Outcome:
    return _Outcome(RuleResult.PASS if ok else RuleResult.FAIL, value, limit, reason)


def _unchecked(reason: str, limit: str | None = None, value: Value = None) -> _Outcome:
    return _Outcome(RuleResult.UNCHECKED, value, limit, reason)


def _finding(rule: Rule, measured: _Measured) -> Finding:
    found = _outcome(rule, measured)
    return Finding(rule=rule.id, level=rule.level, result=found.result, value=found.value, limit=found.limit, reason=found.reason)


def _outcome(rule: Rule, measured: _Measured) -> _Outcome:
    match rule:
        case SideRule() | MegapixelsRule() | RatioRule():
            return _of_size(rule, measured.picture)
        case FormatRule() | SingleFrameRule() | BytesRule() | JpegQualityRule() | ColourSpaceRule():
            return _of_file(rule, measured.picture)
        case WhiteBackgroundRule() | ProductShareRule() | ProductWholeRule() | NoBorderRule() | OpaqueRule():
            return _of_pixels(rule, measured)
        case UncheckedRule():
            return _unchecked(rule.reason)


def _of_size(rule: SideRule | MegapixelsRule | RatioRule, picture: Picture) -> _Outcome:
    width, height = picture.width, picture.height
    match rule:
        case SideRule():
            length = {"longest": max(width, height), "shortest": min(width, height), "width": width, "height": height}[rule.side]
            return _judged(length, _range(rule.min, rule.max, "{} px".format), ok=_within(length, rule.min, rule.max))
        case MegapixelsRule():
            megapixels = width * height / _MILLION
            return _judged(round(megapixels, 3), f"at most {rule.max:g} megapixels", ok=megapixels <= rule.max)
        case RatioRule():
            # Of sides that are a pixel off in either direction.
            least, most = (width - 1) / (height + 1), (width + 1) / max(height - 1, 1)
            ok = (rule.min is None or most >= rule.min) and (rule.max is None or least <= rule.max)
            return _judged(round(width / height, 4), _range(rule.min, rule.max, "{:g}".format), ok=ok)


def _of_file(rule: FormatRule | SingleFrameRule | BytesRule | JpegQualityRule | ColourSpaceRule, picture: Picture) -> _Outcome:
    match rule:
        case FormatRule():
            return _judged(picture.format, ", ".join(rule.formats), ok=picture.format in rule.formats)
        case SingleFrameRule():
            return _judged("one frame" if picture.is_single else "several frames", "one frame", ok=picture.is_single)
        case BytesRule():
            return _judged(picture.bytes, f"at most {rule.max} bytes", ok=picture.bytes <= rule.max)
        case JpegQualityRule():
            limit = f"at least {rule.min}"
            if picture.quality is None:
                return _unchecked(f"{picture.format} has no quality on JPEG's scale", limit)
            return _judged(picture.quality, limit, ok=picture.quality >= rule.min)
        case ColourSpaceRule():
            return _judged(picture.colour_space, SRGB, ok=picture.colour_space == SRGB)


def _of_pixels(
    rule: WhiteBackgroundRule | ProductShareRule | ProductWholeRule | NoBorderRule | OpaqueRule, measured: _Measured
) -> _Outcome:
    match rule:
        case WhiteBackgroundRule():
            white = min(white_shares(measured.picture, measured.scene, or_transparent=rule.or_transparent))
            limit = f"at least {rule.min_share:.1%} of the background pure white{' or clear' * rule.or_transparent}"
            return _judged(_floored(white), limit, ok=white >= rule.min_share)
        case ProductShareRule():
            return _product_share(rule, measured)
        case ProductWholeRule():
            return _product_whole(rule, measured)
        case NoBorderRule():
            return _no_border(measured)
        case OpaqueRule():
            lowest = _FULL if measured.picture.alpha is None else lowest_of(measured.picture.alpha)
            return _judged(lowest, f"every alpha {_FULL}", ok=lowest == _FULL)


def _product_share(rule: ProductShareRule, measured: _Measured) -> _Outcome:
    limit, width, height = _range(rule.min, rule.max, "{:.0%}".format), measured.picture.width, measured.picture.height
    if measured.scene is None:
        return _unchecked(_UNKNOWN, limit)
    if measured.scene.box is None:
        return _judged(0.0, limit, ok=False, reason=_NOTHING)
    left, top, right, bottom = measured.scene.box
    share_of_side = max((right - left) / width, (bottom - top) / height)
    # A soft edge is a pixel wide: what was drawn exactly as large as the limit may be found a pixel larger or smaller.
    pixel = 1 / max(width, height)
    ok = _within(share_of_side, None if rule.min is None else rule.min - pixel, None if rule.max is None else rule.max + pixel)
    return _judged(round(share_of_side, 4), limit, ok=ok)


def _product_whole(rule: ProductWholeRule, measured: _Measured) -> _Outcome:
    limit = f"at least {rule.min_margin_px} px of background on every side"
    if measured.scene is None:
        return _unchecked(_UNKNOWN, limit)
    if measured.scene.box is None:
        return _judged(None, limit, ok=False, reason=_NOTHING)
    left, top, right, bottom = measured.scene.box
    margin = min(left, top, measured.picture.width - right, measured.picture.height - bottom)
    return _judged(margin, limit, ok=margin >= rule.min_margin_px)


def _no_border(measured: _Measured) -> _Outcome:
    limit, found = "no frame", measured.scene
    if found is not None and found.is_given and share(border_of(found.ground)) >= PLAIN:
        return _judged(None, limit, ok=True)  # what runs along the sides is known to be background
    frame = frame_of(measured.picture.rgb)
    match frame.kind:
        case FrameKind.NONE:
            return _judged(None, limit, ok=True)
        case FrameKind.FRAME:
            return _judged(f"{frame.width} px", limit, ok=False)
        case FrameKind.RECTANGLE:
            return _unchecked(_RECTANGLE, limit, f"{frame.width} px")


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _range(low: float | None, high: float | None, shown: Callable[[float], str]) -> str:
    if low is not None and low == high:
        return shown(low)
    parts = [f"{word} {shown(limit)}" for word, limit in (("at least", low), ("at most", high)) if limit is not None]
    return ", ".join(parts)


def _floored(share: float) -> float:
    """To four digits, and 1 only where it is all."""
    return int(share * 10_000) / 10_000
