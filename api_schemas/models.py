"""The model catalogue: what each model does, costs, and may be used for."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from api_schemas.requests import Operation, Scheduler


class EngineKind(StrEnum):
    """The code that runs a model."""

    EXEMPLAR = "exemplar"
    BACKDROP = "backdrop"
    CUTOUT = "cutout"
    MATTING = "matting"
    DIFFUSION = "diffusion"


class Licence(BaseModel):
    """Under what terms the weights may be used."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(examples=["CreativeML-OpenRAIL-M"])
    url: str | None = None
    commercial_use: bool | None = Field(default=None, description="Null: not known; ask your lawyer.")


class SamplingDefaults(BaseModel):
    """What a diffusion model uses where the request is silent."""

    model_config = ConfigDict(frozen=True)

    steps: int = 25
    guidance_scale: float = 7.5
    strength: float = 1.0
    outpaint_strength: float | None = Field(
        default=None,
        description="The strength of `outpaint`, where it is another: below 1 it begins with the colours of the photo's edge. Null: `strength`.",
    )
    scheduler: Scheduler = Scheduler.DPMPP_2M_KARRAS

    def settings(self, operation: Operation) -> dict[str, object]:
        """The fields of a request for ``operation`` and their values."""
        strength = self.outpaint_strength if operation is Operation.OUTPAINT else None
        return {
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "strength": self.strength if strength is None else strength,
            "scheduler": self.scheduler,
        }


class ModelCard(BaseModel):
    """One model of the catalogue."""

    model_config = ConfigDict(frozen=True)

    id: str
    engine: EngineKind
    operations: tuple[Operation, ...]
    description: str
    licence: Licence
    revision: str = Field(description="Pins the weights or the code: a version or a content hash.")
    native_size: int | None = Field(default=None, description="Pixels of the square that the model paints best; null: any size.")
    min_size: int | None = Field(
        default=None, description="Pixels of the smallest square that it is shown, where the picture has more; null: the native size."
    )
    size_multiple: int = Field(default=1, description="Both sides of what the model is given are multiples of this.")
    memory_bytes: int | None = Field(
        default=None,
        description="Bytes of the weights: of a diffusion model at half precision, of a segmenter as its file has them; a step needs more. "
        "Null: embedded, next to nothing.",
    )
    max_upscale: float = Field(default=2.0, description="How far a small crop is enlarged to reach the native size.")
    parameters: frozenset[str] = Field(
        default=frozenset(), description="Optional request fields that it honours; others are refused with `parameter_not_supported`."
    )
    sampling: SamplingDefaults | None = Field(default=None, description="Defaults of a model that reads prompts.")
    schedulers: tuple[Scheduler, ...] = Field(default=tuple(Scheduler), description="Samplers that a diffusion model can be run with.")
    loras: tuple[str, ...] = Field(default=(), description="Names that a request may give in `loras`.")

    @property
    def reads_prompts(self) -> bool:
        """Whether the model paints from text."""
        return self.sampling is not None


SAMPLING_PARAMETERS = frozenset(
    {"prompt", "negative_prompt", "steps", "guidance_scale", "strength", "scheduler", "seed", "num_images", "previews", "shadow"}
)

EXEMPLAR = ModelCard(
    id="exemplar",
    engine=EngineKind.EXEMPLAR,
    operations=(Operation.ERASE, Operation.OUTPAINT),
    description="PatchMatch fills from the rest of the picture; extensions are its reflection. No weights, no prompt.",
    licence=Licence(id="BSD-3-Clause", url="https://github.com/Teriks/patchmatch-cython", commercial_use=True),
    revision="patchmatch-cython-0.2.1",
    native_size=5000,
    min_size=256,
    max_upscale=1.0,
    parameters=frozenset({"seed", "num_images"}),
)
BACKDROP = ModelCard(
    id="backdrop",
    engine=EngineKind.BACKDROP,
    operations=(Operation.REPLACE_BACKGROUND,),
    description="A colour, a gradient or a given picture behind the product, with an optional contact shadow. No weights, no prompt.",
    licence=Licence(id="Apache-2.0", url="https://www.apache.org/licenses/LICENSE-2.0", commercial_use=True),
    revision="1",
    parameters=frozenset({"background", "shadow"}),
)
U2NETP = ModelCard(
    id="u2netp",
    engine=EngineKind.CUTOUT,
    operations=(Operation.REMOVE_BACKGROUND,),
    description="U²-Net (small): finds the salient object.",
    licence=Licence(id="Apache-2.0", url="https://github.com/xuebinqin/U-2-Net", commercial_use=True),
    revision="sha256:309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
    native_size=320,
)
STUDIO = ModelCard(
    id="studio",
    engine=EngineKind.DIFFUSION,
    operations=(Operation.INPAINT, Operation.OUTPAINT, Operation.REPLACE_BACKGROUND),
    description="Studio: small text-guided model for product backdrops, 256 pixels, trained on rendered scenes. It ships with Outfill.",
    licence=Licence(id="Apache-2.0", url="https://www.apache.org/licenses/LICENSE-2.0", commercial_use=True),
    revision="5",
    native_size=256,
    memory_bytes=33_199_030,
    size_multiple=32,
    parameters=SAMPLING_PARAMETERS,
    sampling=SamplingDefaults(steps=20, guidance_scale=2.5, outpaint_strength=0.7, scheduler=Scheduler.DDIM),
    schedulers=tuple(scheduler for scheduler in Scheduler if scheduler is not Scheduler.PNDM),
)
"""What its own directory says, so that its jobs are accepted before a worker announced it (tests/worker/test_studio.py compares)."""
EMBEDDED_MODELS = (EXEMPLAR, BACKDROP, U2NETP, STUDIO)


class ModelInfo(BaseModel):
    """A model of the catalogue, and where it is loaded now."""

    card: ModelCard
    workers: tuple[str, ...] = Field(default=(), description="Names of the live workers that serve it.")


class ModelList(BaseModel):
    """The answer of ``GET /v1/models``."""

    items: tuple[ModelInfo, ...]
    next: str | None = None
