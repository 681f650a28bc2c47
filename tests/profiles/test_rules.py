"""Every rule of every profile: a picture that breaks it, and one that keeps all."""

from __future__ import annotations

import pytest
from odd_files import ADOBE_RGB, DISPLAY_P3, GREY_PROFILE, OddFile, odd_files, saved
from PIL import Image, ImageCms, ImageDraw, ImageFilter
from product_shots import WHITE, Shot, cut_out

from api_schemas.errors import OutfillError
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
    RatioRule,
    Rule,
    RuleResult,
    SideRule,
    SingleFrameRule,
    UncheckedRule,
    WhiteBackgroundRule,
)
from profiles.catalogue import profiles
from profiles.check import check
from profiles.picture import read
from profiles.scene import connected_to_border

RULES = [(profile, rule) for profile in profiles().values() for rule in profile.rules]
ODD_FILES = odd_files()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def held(profile: str, rule: str, picture: Image.Image | bytes, matte: Image.Image | None = None) -> Finding:
    """What a picture is by one rule of a profile."""
    data = picture if isinstance(picture, bytes) else saved(picture)
    whole = profiles()[profile]
    alone = whole.model_copy(update={"rules": tuple(each for each in whole.rules if each.id == rule)})
    (finding,) = check(alone, read(data), matte).rules
    return finding


def framed(picture: Image.Image, width: int, colour: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """With a frame of so many pixels inside of its sides."""
    picture = picture.copy()
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=colour, width=width)
    return picture


def breaking(rule: Rule) -> bytes:
    """A picture's file that breaks ``rule`` by as little as there is."""
    match rule:
        case SideRule() | MegapixelsRule() | RatioRule():
            return saved(Image.new("L", wrong_size(rule), 255), compress_level=1)
        case FormatRule() | SingleFrameRule() | BytesRule() | JpegQualityRule() | ColourSpaceRule():
            return wrong_file(rule)
        case WhiteBackgroundRule() | ProductShareRule() | ProductWholeRule() | NoBorderRule() | OpaqueRule():
            return saved(wrong_pixels(rule))
        case UncheckedRule():
            raise AssertionError("pixels cannot break it")


def wrong_size(rule: SideRule | MegapixelsRule | RatioRule) -> tuple[int, int]:
    """Width and height."""
    match rule:
        case SideRule():
            length = rule.min - 1 if rule.min is not None else (rule.max or 0) + 1
            return {"longest": (length, 16), "width": (length, 16), "height": (16, length), "shortest": (length + 9, length)}[rule.side]
        case MegapixelsRule():
            return 1000, round(rule.max * 1000) + 1
        case RatioRule():
            return (400, 404) if rule.min == rule.max == 1 else (400, 510)


def wrong_file(rule: FormatRule | SingleFrameRule | BytesRule | JpegQualityRule | ColourSpaceRule) -> bytes:
    """Of a picture whose pixels are as they should be."""
    picture = Shot().draw()
    match rule:
        case FormatRule():
            return saved(picture, "WEBP" if "webp" not in rule.formats else "PPM")
        case SingleFrameRule():
            return saved(picture, "GIF", save_all=True, append_images=[Shot(fill=0.5).draw()])
        case BytesRule():
            return (small := saved(picture, "JPEG")) + bytes(rule.max + 1 - len(small))
        case JpegQualityRule():
            return saved(picture, "JPEG", quality=rule.min - 1)
        case ColourSpaceRule():
            return saved(picture, "JPEG", icc_profile=DISPLAY_P3)


def wrong_pixels(rule: WhiteBackgroundRule | ProductShareRule | ProductWholeRule | NoBorderRule | OpaqueRule) -> Image.Image:
    """A picture of the right size."""
    match rule:
        case WhiteBackgroundRule():
            return Shot(ground=(254, 255, 255)).draw()
        case ProductShareRule():
            return Shot(fill=(rule.min or 0) - 0.01).draw()
        case ProductWholeRule():
            return Shot(fill=0.5, at=(0.2, 0.5)).draw()
        case NoBorderRule():
            return framed(Shot().draw(), 1)
        case OpaqueRule():
            picture = Shot().draw()
            picture.putalpha(Image.new("L", picture.size, 255))
            picture.putpixel((3, 3), (255, 255, 255, 254))
            return picture


@pytest.mark.parametrize(("profile", "rule"), RULES, ids=[f"{profile.name}-{rule.id}" for profile, rule in RULES])
def test_a_picture_that_breaks_a_rule_fails_it(profile: Profile, rule: Rule) -> None:
    """Each rule fails the picture that was drawn to break it and says what was measured and wanted; what cannot be checked says why."""
    if isinstance(rule, UncheckedRule):
        finding = held(profile.name, rule.id, Shot().draw())
        assert (finding.result, finding.reason) == (RuleResult.UNCHECKED, rule.reason)
        return
    finding = held(profile.name, rule.id, breaking(rule))
    assert (finding.result, finding.rule, finding.level) == (RuleResult.FAIL, rule.id, rule.level)
    assert finding.limit
    assert finding.value is not None


def passing(profile: Profile) -> bytes:
    """A JPEG as the profile's own request would have it made."""
    fields = profile.request["replace_background"]  # type: ignore[index]  # of a StrEnum's own text
    output = fields["output"]
    shot = Shot(output["width"], output["height"], fields["placement"]["fill"])
    return saved(shot.draw(), "JPEG", quality=output["quality"])


@pytest.mark.parametrize("profile", profiles().values(), ids=list(profiles()))
def test_a_picture_as_the_profile_asks_for_it_passes_every_rule(profile: Profile) -> None:
    """Size, format, quality and fill of the profile's request leave no rule failed, advice included, and all that can be checked is."""
    report = check(profile, read(passing(profile)))
    results = {each.rule: each.result for each in report.rules}
    expected = {rule.id: RuleResult.UNCHECKED if isinstance(rule, UncheckedRule) else RuleResult.PASS for rule in profile.rules}
    assert results == expected
    assert report.passes


def test_a_cut_out_passes_where_transparency_is_as_good_as_white() -> None:
    """Google takes a transparent background, whatever colours lie under it; Amazon wants white pixels."""
    picture = saved(cut_out(1500, 1500, 0.85))
    google = check(profiles()["google_shopping"], read(picture))
    assert {each.result for each in google.rules} == {RuleResult.PASS, RuleResult.UNCHECKED}
    assert held("amazon_main", "white_background", picture).result is RuleResult.FAIL
    assert held("amazon_main", "opaque", picture).value == 0
    under = cut_out()
    black = Image.merge("RGBA", (*Image.new("RGB", under.size).split(), under.getchannel("A")))
    assert held("google_shopping", "white_background", black).result is RuleResult.PASS


def test_only_advice_that_is_not_followed_fails_no_profile() -> None:
    """A picture that breaks rules of level should alone passes as a whole."""
    report = check(profiles()["ebay"], read(saved(Shot(600, 600).draw(), "JPEG", quality=70)))
    assert {each.rule for each in report.rules if each.result is RuleResult.FAIL} == {"best_size", "jpeg_quality"}
    assert report.passes


def test_the_background_is_what_surrounds_the_product_and_not_what_is_seen_through_it() -> None:
    """A grey hole in the product is the product's; a grey patch that reaches the picture's border is background."""
    ring = Shot(fill=0.9).draw()
    ImageDraw.Draw(ring).ellipse((180, 180, 220, 220), fill=(250, 250, 250))
    assert held("amazon_main", "white_background", ring).result is RuleResult.PASS
    patch = Shot(fill=0.9).draw()
    ImageDraw.Draw(patch).rectangle((0, 0, 40, 40), fill=(250, 250, 250))
    finding = held("amazon_main", "white_background", patch)
    assert finding.result is RuleResult.FAIL
    assert isinstance(finding.value, float)
    assert finding.value < 0.97


def test_one_pixel_off_white_is_no_full_share() -> None:
    """A share below 1 is never rounded up to it."""
    picture = Shot().draw()
    picture.putpixel((1, 1), (255, 255, 254))
    assert held("amazon_main", "white_background", picture).value == 0.9999


@pytest.mark.parametrize("quality", [75, 92])
def test_what_a_jpeg_does_at_the_products_edge_does_not_count_as_background(quality: int) -> None:
    """The blocks that hold the edge are left out, as far as halved colours spread it."""
    shot = saved(Shot(fill=0.7).draw(), "JPEG", quality=quality, subsampling="4:2:0")
    assert held("amazon_main", "white_background", shot).value == 1.0


@pytest.mark.parametrize("fill", [0.86, 0.9, 0.95])
def test_the_share_of_the_product_is_that_of_the_side_that_limits_it(fill: float) -> None:
    """In a wide picture the height counts, since that is what the product fills; measured to a pixel and a half."""
    finding = held("amazon_main", "fills_frame", Shot(800, 500, fill).draw())
    assert finding.result is RuleResult.PASS
    assert isinstance(finding.value, float)
    assert abs(finding.value - fill) <= 1.5 / 500


def test_the_share_has_an_upper_end_too() -> None:
    """Google wants room around the product."""
    assert held("google_shopping", "frames_product", Shot(fill=0.93).draw()).result is RuleResult.FAIL


def test_dust_is_no_product() -> None:
    """Single dark pixels near the corners make the product no larger and do not cut it off."""
    dusty = Shot(fill=0.6).draw()
    for place in ((0, 0), (399, 200), (200, 398)):
        dusty.putpixel(place, (40, 40, 40))
    assert held("google_shopping", "frames_product", dusty).result is RuleResult.FAIL
    assert held("google_shopping", "whole_product", dusty).result is RuleResult.PASS


def test_an_empty_picture_has_no_product() -> None:
    """White paper alone fails what is asked of the product, and says so."""
    for rule in ("fills_frame", "whole_product"):
        finding = held("amazon_main", rule, Image.new("RGB", (400, 400), WHITE))
        assert (finding.result, finding.reason) == (RuleResult.FAIL, "nothing stands on the background")


def test_where_the_background_is_not_plain_only_a_matte_tells_the_product() -> None:
    """A photo of a room is unchecked by its colours; with a matte it is measured by that, whatever the colours."""
    room = Image.effect_noise((400, 400), 120).convert("RGB")
    assert held("amazon_main", "fills_frame", room).result is RuleResult.UNCHECKED
    assert held("amazon_main", "white_background", room).result is RuleResult.FAIL
    matte = Image.new("L", (400, 400))
    ImageDraw.Draw(matte).rectangle((100, 30, 299, 389), fill=255)
    assert held("amazon_main", "fills_frame", room, matte).value == 0.9
    assert held("amazon_main", "whole_product", room, matte).value == 10


def test_a_white_product_on_white_is_found_by_its_matte() -> None:
    """By its colours there is nothing; the matte tells, and the white of the product is not taken for background."""
    white = Image.new("RGB", (400, 400), WHITE)
    matte = Image.new("L", (400, 400))
    ImageDraw.Draw(matte).rectangle((20, 100, 379, 299), fill=255)
    assert held("amazon_main", "fills_frame", white).result is RuleResult.FAIL
    assert held("amazon_main", "fills_frame", white, matte).value == 0.9


def test_a_matte_of_another_size_is_refused() -> None:
    """It would tell of other pixels."""
    with pytest.raises(ValueError, match="does not fit"):
        held("amazon_main", "fills_frame", Shot().draw(), Image.new("L", (399, 400)))


def photo(width: int = 400, height: int = 400) -> Image.Image:
    """Something that fills its rectangle."""
    grain = Image.effect_noise((width, height), 90).filter(ImageFilter.BoxBlur(1))
    return Image.merge("RGB", (grain.point(lambda level: level // 2), grain.point(lambda level: level // 3), grain))


def within(picture: Image.Image, margin: int, colour: tuple[int, int, int]) -> Image.Image:
    """On a larger sheet of one colour."""
    sheet = Image.new("RGB", (picture.width + 2 * margin, picture.height + 2 * margin), colour)
    sheet.paste(picture, (margin, margin))
    return sheet


@pytest.mark.parametrize(
    ("picture", "result"),
    [
        (photo(), RuleResult.PASS),
        (framed(photo(), 1), RuleResult.FAIL),
        (framed(photo(), 8, (200, 0, 0)), RuleResult.FAIL),
        (within(photo(), 8, WHITE), RuleResult.FAIL),
        (within(photo(), 30, WHITE), RuleResult.UNCHECKED),
        (within(photo(), 100, WHITE), RuleResult.PASS),
        (framed(Shot().draw(), 2), RuleResult.FAIL),
        (within(framed(Shot(fill=0.8).draw(), 2), 20, WHITE), RuleResult.FAIL),
        (Shot(ground=(120, 130, 140)).draw(), RuleResult.PASS),
        (Shot(fill=0.99).draw(), RuleResult.PASS),
        (Image.new("RGB", (400, 400), (9, 9, 9)), RuleResult.PASS),
    ],
    ids=[
        "photo",
        "line_around_a_photo",
        "red_frame",
        "thin_white_margin",
        "margin_that_may_be_background",
        "wide_margin",
        "line_around_a_product",
        "rectangle_around_a_product",
        "grey_background",
        "product_near_the_sides",
        "one_colour",
    ],
)
def test_frames_are_told_from_backgrounds(picture: Image.Image, result: RuleResult) -> None:
    """Thin margins and outlines fail; a margin around a rectangle that may be the product is unchecked; backgrounds pass. In JPEG too."""
    assert held("ebay", "no_border", picture).result is result
    assert held("ebay", "no_border", saved(picture, "JPEG", quality=92)).result is result


def test_a_matte_tells_a_rectangular_product_from_a_frame() -> None:
    """What runs along the sides is background by the matte: a poster may fill the picture nearly."""
    matte = within(Image.new("RGB", (400, 400), WHITE), 30, (0, 0, 0)).convert("L")
    assert held("ebay", "no_border", within(photo(), 30, WHITE), matte).result is RuleResult.PASS


@pytest.mark.parametrize(
    ("data", "space"),
    [
        (saved(Shot().draw(), "JPEG"), "sRGB"),
        (saved(Shot().draw(), "JPEG", icc_profile=SRGB), "sRGB"),
        (saved(Shot().draw().convert("L"), "PNG"), "sRGB"),
        (saved(Shot().draw().convert("P"), "PNG", icc_profile=SRGB), "sRGB"),
        (saved(Shot().draw().convert("CMYK"), "JPEG"), "CMYK"),
    ],
    ids=["none", "srgb", "grey", "palette", "cmyk"],
)
def test_a_colour_space_is_what_its_colours_are(data: bytes, space: str) -> None:
    """No profile is sRGB, as is one whose colours are sRGB's; inks are not."""
    finding = held("shopify_square", "srgb", data)
    assert (finding.value, finding.result) == (space, RuleResult.PASS if space == "sRGB" else RuleResult.FAIL)


@pytest.mark.parametrize("profile", [DISPLAY_P3, ADOBE_RGB], ids=["display_p3", "adobe_rgb"])
def test_a_wider_colour_space_is_not_srgb(profile: bytes) -> None:
    """By what its colours become, not by its name."""
    assert held("shopify_square", "srgb", saved(Shot().draw(), icc_profile=profile)).result is RuleResult.FAIL


def test_a_grey_profile_of_another_gamma_is_not_srgb() -> None:
    """Greys have a profile of their own kind."""
    assert held("shopify_square", "srgb", saved(Shot().draw().convert("L"), icc_profile=GREY_PROFILE)).result is RuleResult.FAIL


def test_a_picture_is_measured_upright() -> None:
    """Where the camera was turned, width and height are those that are seen."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = read(saved(Shot(320, 400).draw(), "JPEG", exif=exif))
    assert (picture.width, picture.height) == (400, 320)


@pytest.mark.parametrize("quality", [50, 75, 90, 95])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality: int) -> None:
    """As it was saved, to one."""
    found = read(saved(Shot().draw(), "JPEG", quality=quality)).quality
    assert found is not None
    assert abs(found - quality) <= 1


@pytest.mark.parametrize("odd", ODD_FILES.values(), ids=list(ODD_FILES))
def test_odd_files_are_read_or_refused(odd: OddFile) -> None:
    """Whatever a file holds, it is a picture that can be checked against every profile or an error with a code."""
    refused = ""
    try:
        picture = read(odd.data)
    except OutfillError as error:
        refused = error.code
    else:
        for profile in profiles().values():
            assert len(check(profile, picture).rules) == len(profile.rules)
    assert refused in ("", "not_an_image", "image_corrupt", "unsupported_format", "image_too_large")


def test_background_is_found_along_every_bend() -> None:
    """Pixels count that are connected to the border along rows and columns, as a plain search pixel by pixel finds them."""
    mask = Image.effect_noise((90, 70), 80).point(lambda level: 255 * (level > 120))
    width, height, open_pixels = *mask.size, mask.load()
    assert open_pixels is not None
    reached = {(x, y) for x in range(width) for y in range(height) if (x in (0, width - 1) or y in (0, height - 1)) and open_pixels[x, y]}
    waiting = list(reached)
    while waiting:
        x, y = waiting.pop()
        for near in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if 0 <= near[0] < width and 0 <= near[1] < height and open_pixels[near] and near not in reached:
                reached.add(near)
                waiting.append(near)
    found = connected_to_border(mask)
    assert {(x, y) for x in range(width) for y in range(height) if found.getpixel((x, y))} == reached
    assert 0 < len(reached) < mask.histogram()[255]


def test_what_is_cut_short_is_corrupt() -> None:
    """A JPEG that ends in the middle is no picture that can be judged."""
    data = saved(Shot().draw(), "JPEG")
    with pytest.raises(OutfillError, match="cannot be decoded") as raised:
        read(data[: len(data) // 2])
    assert raised.value.code == "image_corrupt"
