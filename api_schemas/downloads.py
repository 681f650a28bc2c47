"""What a downloaded output is called: the name that the request gives, and the header that carries it."""

from __future__ import annotations

from urllib.parse import quote

from api_schemas.requests import ImageFormat

EXTENSIONS = {ImageFormat.PNG: "png", ImageFormat.JPEG: "jpg", ImageFormat.WEBP: "webp"}
_IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".heic", ".heif", ".tif", ".tiff", ".bmp")
_PLAIN = frozenset("!#$&+-.^_`|~ ()[]{}@,=")
"""Of what is neither letter nor digit: what may stand between the quotes of a header and is no sign of anything (RFC 9110, section 5.6.4)."""


def download_name(stem: str, image_format: ImageFormat, *, number: int | None = None, layer: str | None = None) -> str:
    """The name of a file: ``stem`` without the ending of an image, if it has one; ``number`` it is of several, ``layer`` what is not the output itself."""
    ending = next((ending for ending in _IMAGE_ENDINGS if stem.lower().endswith(ending) and len(stem) > len(ending)), "")
    which = "" if number is None else f"-{number + 1}"
    return f"{stem[: len(stem) - len(ending)]}{which}.{f'{layer}.png' if layer else EXTENSIONS[image_format]}"


def disposition(name: str) -> str:
    """``Content-Disposition`` of a download of that name (RFC 6266): where ASCII cannot hold it, also in UTF-8 (RFC 8187)."""
    plain = "".join(letter if letter in _PLAIN or (letter.isascii() and letter.isalnum()) else "_" for letter in name)
    header = f'attachment; filename="{plain}"'
    return header if plain == name else f"{header}; filename*=UTF-8''{quote(name, safe='')}"
