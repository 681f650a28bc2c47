"""Finding the product, with the real network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from api_schemas.errors import SubjectNotFound
from core.settings import Quality
from worker.images.codec import Frame, decode
from worker.images.mask import coverage
from worker.images.network import Network
from worker.images.subject import Segmenter, subject_of

MODEL = Path(sys.prefix) / "share/outfill/models/u2netp.onnx"
PHOTOS = Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(MODEL)


def coffee() -> Frame:
    return decode((PHOTOS / "coffee.png").read_bytes(), max_pixels=10**6)


def test_cup_and_saucer(segmenter: Segmenter) -> None:
    """In the coffee photo the cup with its saucer is the product, whole, with a soft edge a few pixels wide."""
    matte = segmenter.matte(coffee().pixels)
    # The saucer, measured by hand, is this ellipse; the cup rises out of its top.
    saucer = np.zeros((400, 600), np.uint8)
    cv2.ellipse(saucer, (278, 230), (190, 145), 0, 0, 360, 255, -1)
    assert (matte[saucer > 0] == 255).mean() > 0.99
    assert matte[60, 290] == 255
    assert (matte[:, :60] == 0).all()
    assert (matte[:, 500:] == 0).all()
    assert 0.40 < coverage(matte) < 0.55
    assert ((matte > 0) & (matte < 255)).mean() < 0.05


def test_small_subject(segmenter: Segmenter) -> None:
    """A small subject, the rocket, is found in one narrow piece."""
    frame = decode((PHOTOS / "rocket.jpg").read_bytes(), max_pixels=10**6)
    matte = segmenter.matte(frame.pixels)
    rows, columns = np.nonzero(matte > 127)
    assert 300 < columns.min() < columns.max() < 350
    assert rows.max() - rows.min() > 200


def test_large_picture(segmenter: Segmenter) -> None:
    """The matte of an enlarged photo is the enlarged matte."""
    pixels = coffee().pixels
    large = cv2.resize(pixels, (2400, 1600), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    back = cv2.resize(segmenter.matte(large), (600, 400), interpolation=cv2.INTER_AREA)
    assert ((back > 127) != (segmenter.matte(pixels) > 127)).mean() < 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (64, 64), (301, 203)])
def test_nothing_stands_out(segmenter: Segmenter, size: tuple[int, int]) -> None:
    """A picture of one colour has no subject, at any size."""
    for level in (0, 128, 255):
        with pytest.raises(SubjectNotFound):
            segmenter.matte(np.full((*size, 3), level, np.uint8))


@pytest.mark.parametrize("photo", ["grass.png", "gravel.png"])
def test_texture_has_no_subject(segmenter: Segmenter, photo: str) -> None:
    """A plain texture has no subject."""
    frame = decode((PHOTOS / photo).read_bytes(), max_pixels=10**6)
    with pytest.raises(SubjectNotFound):
        segmenter.matte(frame.pixels)


def mug(side: int = 300, hidden: tuple[int, int, int] = (0, 0, 0), opacity: int = 255) -> Frame:
    """A blue mug with a handle as a cut-out; clear pixels hide a colour."""
    alpha = np.zeros((side, side), np.uint8)
    cv2.rectangle(alpha, (side // 5, side // 5), (side * 3 // 5, side * 4 // 5), 255, -1)
    cv2.ellipse(alpha, (side * 3 // 5, side // 2), (side // 5, side // 6), 0, -90, 90, 255, side // 20)
    alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), 1.0), np.uint8)
    pixels = np.full((side, side, 3), (40, 90, 180), np.uint8)
    pixels[alpha == 0] = hidden
    return Frame(pixels, np.rint(alpha * (opacity / 255)).astype(np.uint8))


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.count_nonzero((first > 127) & (second > 127)) / np.count_nonzero((first > 127) | (second > 127)))


@pytest.mark.parametrize("opacity", [255, 224, 90])
@pytest.mark.parametrize("hidden", [(255, 0, 255), (255, 255, 255)], ids=["magenta", "white"])
def test_the_alpha_of_a_cut_out_is_its_matte(segmenter: Segmenter, opacity: int, hidden: tuple[int, int, int]) -> None:
    """A cut-out's own alpha is its matte, exactly, however opaque it is at most and whatever its clear pixels hide."""
    frame = mug(hidden=hidden, opacity=opacity)
    found = subject_of(frame, segmenter)
    assert frame.alpha is not None
    assert np.array_equal(found.matte, frame.alpha)
    assert found.confidence is None


def test_a_soft_shadow_in_the_alpha_stays(segmenter: Segmenter) -> None:
    """A cut-out with a soft shadow in its alpha keeps both."""
    frame = mug()
    assert frame.alpha is not None
    shadow = np.zeros_like(frame.alpha)
    cv2.ellipse(shadow, (130, 245), (110, 20), 0, 0, 360, 110, -1)
    alpha = np.maximum(frame.alpha, cv2.GaussianBlur(shadow, (0, 0), 6)).astype(np.uint8)
    assert np.array_equal(subject_of(Frame(frame.pixels, alpha), segmenter).matte, alpha)


def test_an_alpha_that_is_opaque_throughout_is_not_asked(segmenter: Segmenter) -> None:
    """An opaque alpha channel changes nothing."""
    frame = coffee()
    opaque = Frame(frame.pixels, np.full((400, 600), 255, np.uint8))
    assert np.array_equal(subject_of(opaque, segmenter).matte, segmenter.matte(frame.pixels))


def clear_border(kind: str, height: int, width: int) -> np.ndarray:
    down, across = np.mgrid[:height, :width]
    alpha = np.full((height, width), 255, np.uint8)
    match kind:
        case "rounded corners":
            y, x = (np.maximum(np.abs(at - (side - 1) / 2) - (side / 2 - 24), 0) for at, side in ((down, height), (across, width)))
            alpha[np.hypot(x, y) > 24] = 0
        case "padding":
            alpha[:20] = alpha[-20:] = 0
        case "vignette":
            away = np.hypot((across - width / 2) / (width / 2), (down - height / 2) / (height / 2))
            alpha = (np.clip((1.35 - away) / 0.5, 0, 1) * 255).astype(np.uint8)
        case "translucent":
            alpha[:] = 224
    return alpha


@pytest.fixture(scope="module")
def cup_on_table(segmenter: Segmenter) -> tuple[np.ndarray, np.ndarray]:
    """A cup with some table around, and its matte where the file is opaque."""
    cup = np.asarray(cv2.resize(coffee().pixels, (150, 100), interpolation=cv2.INTER_AREA), np.uint8)
    photo = np.full((200, 300, 3), np.median(cup[:10, :10], axis=(0, 1)), np.uint8)
    photo[50:150, 75:225] = cup
    return photo, segmenter.matte(photo)


@pytest.mark.parametrize("kind", ["rounded corners", "padding", "vignette", "translucent"])
def test_a_clear_border_is_not_the_product(segmenter: Segmenter, cup_on_table: tuple[np.ndarray, np.ndarray], kind: str) -> None:
    """Of a photo with a clear or translucent border the product inside is found, nowhere more opaque than the file."""
    photo, opaque = cup_on_table
    alpha = clear_border(kind, 200, 300)
    hidden = photo.copy()
    hidden[alpha == 0] = (255, 0, 255)
    matte = subject_of(Frame(hidden, alpha), segmenter).matte
    assert (matte <= alpha).all()
    assert iou(matte, opaque) > 0.95


def test_a_plain_product_with_the_shape_of_a_frame_stays_whole(segmenter: Segmenter) -> None:
    """A cut-out with rounded corners that fills its file, a phone, is the product and not a border."""
    alpha = clear_border("rounded corners", 400, 240)
    pixels = np.full((400, 240, 3), 30, np.uint8)
    pixels[40:-40, 14:-14] = (70, 120, 200)
    assert np.array_equal(subject_of(Frame(pixels, alpha), segmenter).matte, alpha)


def test_a_file_that_is_clear_throughout_has_no_product(segmenter: Segmenter) -> None:
    """Nothing that is hidden is found."""
    with pytest.raises(SubjectNotFound):
        subject_of(Frame(coffee().pixels, np.zeros((400, 600), np.uint8)), segmenter)


def bag() -> tuple[np.ndarray, np.ndarray]:
    """A bag with a ring on pale paper, and where the ring's hole is: 1 % of the bag."""
    picture = np.full((380, 480, 3), (235, 230, 224), np.uint8)
    cv2.rectangle(picture, (120, 104), (360, 360), (150, 90, 50), -1)
    cv2.circle(picture, (240, 84), 21, (130, 75, 40), 11)
    hole = np.zeros((380, 480), np.uint8)
    cv2.circle(hole, (240, 84), 12, 255, -1)
    return picture, hole > 0


def test_a_small_hole_that_the_network_is_certain_of_is_clear(segmenter: Segmenter) -> None:
    """Through a ring of 1 % of the product one sees the background; the product itself has no holes."""
    picture, hole = bag()
    matte = segmenter.matte(picture)
    assert (matte[hole] < 16).mean() > 0.95
    assert (matte[130:350, 130:350] == 255).all()


def test_a_small_part_that_the_network_is_certain_of_stays(segmenter: Segmenter) -> None:
    """A thing beside the product of less than 2 % of it belongs to it where it stands out as much."""
    picture = np.full((400, 480, 3), (235, 230, 224), np.uint8)
    cv2.rectangle(picture, (100, 70), (340, 330), (150, 90, 50), -1)
    cv2.circle(picture, (366, 200), 16, (150, 90, 50), -1)
    part = np.zeros((400, 480), np.uint8)
    cv2.circle(part, (366, 200), 12, 255, -1)
    assert (segmenter.matte(picture)[part > 0] > 200).mean() > 0.9


def cloth() -> np.ndarray:
    """A woven cloth that fills the frame but for one corner."""
    down, across = np.mgrid[:400, :480]
    weave = 18 * np.sin(down / 2.5) * np.sin(across / 2.5) + 10 * np.sin(across / 37) * np.sin(down / 29)
    picture: np.ndarray = np.clip(np.array([150, 55, 45]) + weave[..., None], 0, 255).astype(np.uint8)
    picture[down + across < 60] = 235
    return picture


def test_a_matte_says_how_sure_it_is(segmenter: Segmenter) -> None:
    """The cup that is found whole is sure by the service's limits; a rocket among masts and a cloth that fills the frame are not."""
    limit = Quality().confidence_warn
    rocket = decode((PHOTOS / "rocket.jpg").read_bytes(), max_pixels=10**6)
    sure, unsure, torn = (segmenter.find(pixels).confidence for pixels in (coffee().pixels, rocket.pixels, cloth()))
    assert sure is not None
    assert unsure is not None
    assert torn is not None
    assert sure > limit + 0.2
    assert max(unsure, torn) < limit - 0.2


def test_a_product_that_fills_the_frame_is_found_whole(segmenter: Segmenter) -> None:
    """A cat's head that three borders cut is found with its ears and its chin, and without the ground between them."""
    cat = decode((PHOTOS / "chelsea.png").read_bytes(), max_pixels=10**6)
    matte = segmenter.matte(cat.pixels)
    # By hand: the head, from ear to ear and down to the chin, and the ground beside the right ear and the cheek.
    head = np.zeros((300, 451), np.uint8)
    cv2.ellipse(head, (180, 150), (130, 120), 0, 0, 360, 255, -1)
    assert (matte[head > 0] > 200).mean() > 0.99
    assert (matte[100:, 430:] < 60).all()


@pytest.mark.parametrize(
    ("photo", "most", "shown"), [("coffee.png", 1, 1), ("coffee.png", 7, 2), ("rocket.jpg", 3, 3), ("rocket.jpg", 7, 5)]
)
def test_no_more_looks_than_allowed(photo: str, most: int, shown: int) -> None:
    """A sure product is looked at twice, whatever is allowed, and a doubtful one as often as allowed, and as there are looks for it."""
    pixels = decode((PHOTOS / photo).read_bytes(), max_pixels=10**6).pixels
    network = Network(MODEL)
    seen: list[int] = []
    answer = network.maps

    def counted(views: Sequence[np.ndarray]) -> list[np.ndarray]:
        seen.append(len(views))
        return answer(views)

    network.maps = counted  # type: ignore[method-assign]
    assert Segmenter(network, most).find(pixels).confidence is not None
    assert sum(seen) == shown


def test_the_photo_itself_is_no_product(segmenter: Segmenter) -> None:
    """A night scene that would be one bright thing on a canvas has its rocket for a product, and not all of the photo."""
    rocket = decode((PHOTOS / "rocket.jpg").read_bytes(), max_pixels=10**6)
    assert coverage(segmenter.matte(rocket.pixels)) < 0.05
