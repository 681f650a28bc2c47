"""What the OpenAPI document cannot tell schemathesis: images that are images, ids of things that are there."""

from __future__ import annotations

import base64
import copy
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image
from schemathesis.transport.serialization import Binary

SIDE = 48
MODELS = ("exemplar", "backdrop", "u2netp", "tiny")
FILES = ("photo", "mask", "scene")
"""What the parts of a form are called."""
_HOPELESS_PORT = 9
IDS = {"job_id": "job", "endpoint_id": "whk", "delivery_id": "evt"}
"""Path parameters, and what the ids of such things begin with."""


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _photo(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.dstack([(x * 5) % 256, (y * 5) % 256, (x + y) % 256]).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.paste((200, 40, 40), (width // 4, height // 4, width // 2 + 1, height // 2 + 1))
    return image


def _mask(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("L", (width, height))
    image.paste(255, box)
    return image


def _gif() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("L", (SIDE, SIDE), level) for level in (0, 200)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


GOOD_PHOTOS = (
    _png(_photo(SIDE, SIDE)),
    _png(_photo(SIDE, SIDE).convert("L")),
    _png(_photo(SIDE, SIDE).convert("RGBA")),
)
GOOD_MASKS = (_png(_mask(SIDE, SIDE, (12, 12, 30, 26))), _png(_mask(SIDE, SIDE, (0, 0, 5, SIDE))))
_ODD = (
    b"",
    b"no image",
    _gif(),
    GOOD_PHOTOS[0][:60],
    GOOD_PHOTOS[0][:-40],
    _png(_photo(1, 1)),
    _png(_photo(SIDE, 7)),
    _png(_mask(SIDE, SIDE, (0, 0, 0, 0))),
    _png(_mask(SIDE, SIDE, (0, 0, SIDE, SIDE))),
    _png(_photo(400, 300)),
)


def data_url(data: bytes) -> str:
    """An image as a request may hold it."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


LONG_JOB = {
    "operation": "inpaint",
    "model": "tiny",
    "image": data_url(GOOD_PHOTOS[0]),
    "mask": data_url(GOOD_MASKS[0]),
    "prompt": "x",
    "steps": 100,
}


class Pool:
    """Ids of things that exist, as the answers tell of them."""

    def __init__(self) -> None:
        self._ids: dict[str, list[str]] = {prefix: [] for prefix in (*IDS.values(), "upl")}

    def add(self, thing_id: str) -> None:
        """Remember a thing."""
        ids = self._ids.get(thing_id.partition("_")[0])
        if ids is not None and thing_id not in ids[-200:]:
            ids.append(thing_id)

    def pick(self, prefix: str, number: int) -> str:
        """One of the last that were made; ``number`` says which."""
        ids = self._ids[prefix][-200:]
        return ids[number % len(ids)] if ids else f"{prefix}_01JD0000000000000000000000"


def register(pool: Pool) -> None:
    """Tell schemathesis how strings of our own formats look."""
    numbers = st.integers(0, 10_000)
    uploads = numbers.map(lambda number: f"upload:{pool.pick('upl', number)}")
    odd = st.sampled_from(_ODD).map(data_url)
    text = st.text(min_size=1, max_size=40)
    schemes = st.builds("{}:{}".format, st.sampled_from(("file", "FILE", "upload", "Upload", "data", "DATA", "http", "HTTPS", "ftp")), text)
    photos, masks = st.sampled_from(GOOD_PHOTOS).map(data_url), st.sampled_from(GOOD_MASKS).map(data_url)
    schemathesis.openapi.format("outfill-image", st.one_of(photos, uploads, odd, schemes, text))
    schemathesis.openapi.format("outfill-mask", st.one_of(masks, masks, odd, schemes))
    schemathesis.openapi.format("outfill-model", st.one_of(st.sampled_from(MODELS), text))
    hooks = st.integers(0, 3).map(lambda number: f"http://127.0.0.1:{_HOPELESS_PORT}/{number}")
    schemathesis.openapi.format("outfill-url", st.one_of(hooks, st.builds("http://{}/".format, text), text))
    for prefix in IDS.values():
        schemathesis.openapi.format(f"outfill-{prefix}", st.one_of(numbers.map(partial(pool.pick, prefix)), text))


_FORMATS = {
    "image": "outfill-image",
    "mask": "outfill-mask",
    "product_mask": "outfill-mask",
    "model": "outfill-model",
    "subject_model": "outfill-model",
    "url": "outfill-url",
}


def with_formats(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with our formats at the strings that only mean something to this service, and names for the files of a form.

    Rules that stand under a condition that always holds stand without it: schemathesis draws by those alone.
    """
    made = copy.deepcopy(dict(document))
    _unconditional(made["components"]["schemas"].values())
    for name, schema in made["components"]["schemas"].items():
        if name.endswith(("Request", "Background", "Changes", "Target")):
            for field, wanted in _FORMATS.items():
                for string in _strings(schema.get("properties", {}).get(field, {})):
                    string["format"] = wanted
    for operations in made["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in IDS:
                    parameter["schema"]["format"] = f"outfill-{IDS[parameter['name']]}"
    form = made["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    # Of a form with a `format` that it knows schemathesis puts the examples of single fields together, whatever the rules.
    file = {name: value for name, value in form["additionalProperties"].items() if name != "format"}
    for part in FILES:  # only of parts whose name it knows does it make files
        form["properties"][part] = file
    form["additionalProperties"] = False
    return made


def _unconditional(schemas: Iterable[dict[str, Any]]) -> None:
    for schema in schemas:
        if schema.get("if") == {"type": schema.get("type")}:
            del schema["if"]
            schema.update(schema.pop("then"))


def _strings(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if schema.get("type") == "string":
        yield schema
    for inner in schema.get("anyOf", ()):
        yield from _strings(inner)


_SAMPLING = ("negative_prompt", "steps", "guidance_scale", "strength", "scheduler", "loras", "previews")
_IGNORED = {
    "erase": ("model", *_SAMPLING),
    "outpaint": ("model", "subject_model", "prompt", *_SAMPLING),
    "replace_background": ("model", "subject_model", "prompt", "mask", "mask_options", "seed", "num_images", "checks", *_SAMPLING),
    "remove_background": ("model", "subject_model"),
    "inpaint": ("model", "loras", "scheduler", "negative_prompt", "strength"),
}
"""What the engines that are served here take no notice of, and so refuse."""


def made_acceptable(request: dict[str, Any]) -> dict[str, Any]:
    """The request without what its model would ignore, with images that fit one another. Its options stay as they were drawn."""
    operation = request["operation"]
    kept = {name: value for name, value in request.items() if name not in _IGNORED[operation]}
    number = zlib.crc32(json.dumps(request, sort_keys=True, default=str).encode())
    kept["image"] = data_url(GOOD_PHOTOS[number % len(GOOD_PHOTOS)])
    for mask in ("mask", "product_mask"):
        if kept.get(mask):
            kept[mask] = data_url(GOOD_MASKS[number % len(GOOD_MASKS)])
    if "mask_options" in kept:
        kept["mask_options"] = {**kept["mask_options"], "polarity": "white_edits"}
    if operation == "replace_background" and (not kept.get("background") or "image" in kept["background"]):
        kept["background"] = {"image": data_url(GOOD_PHOTOS[0])}
    for extension in ("expand", "canvas"):
        if kept.get(extension):
            kept[extension] = {name: _small(name, value) for name, value in kept[extension].items()}
    if kept.get("output"):
        kept["output"] = {
            name: _small(name, value) if name in ("width", "height") and value else value for name, value in kept["output"].items()
        }
    for limit in ("num_images", "steps"):
        if kept.get(limit):
            kept[limit] = min(kept[limit], 4)
    return {**kept, "metadata": {"number": number}} if len(json.dumps(kept.get("metadata", {}))) > 1000 else kept


def _small(name: str, value: Any) -> Any:
    if name in ("width", "height") and value is not None:
        return SIDE + 1 + value % 16
    return value % 16 + 1 if isinstance(value, int) and value else value


def as_form(request: dict[str, Any]) -> dict[str, Any]:
    """The body of a form: the request, and its images as files of their own."""
    mask = next((name for name in ("mask", "product_mask") if request.get(name)), None)
    sources = {"photo": request["image"], "mask": request[mask] if mask else None}
    files = {name: Binary(base64.b64decode(source.partition(",")[2])) for name, source in sources.items() if source}
    named = {"image": "file:photo"} | ({mask: "file:mask"} if mask else {})
    return {"request": {**request, **named}, **files}


def adapted(case: schemathesis.Case[Any]) -> schemathesis.Case[Any]:
    """A case of what schemathesis takes for valid, five times in eight with real images, so that the answer may be 2xx."""
    if case.meta is None or not case.meta.generation.mode.is_positive or case.operation.label not in ("POST /v1/jobs", "POST /v1/uploads"):
        return case
    body: Any = case.body
    number = zlib.crc32(repr(body).encode(errors="replace"))
    if number % 8 < 3 or not isinstance(body, dict):
        return case
    if case.operation.label == "POST /v1/uploads":
        case.body = {"file": Binary(GOOD_PHOTOS[number % len(GOOD_PHOTOS)])}
    elif case.media_type == "application/json":
        case.body = made_acceptable(body)
    elif isinstance(body.get("request"), dict):
        case.body = as_form(made_acceptable(body["request"]))
    return case
