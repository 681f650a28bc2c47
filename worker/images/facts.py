"""How segmentation networks want their pictures, and what they answer. Read without numpy, so that a store can be looked at quickly."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_Channels = tuple[float, float, float]
_MEAN: _Channels = (0.485, 0.456, 0.406)
_STD: _Channels = (0.229, 0.224, 0.225)
"""Of ImageNet, on which most backbones were trained first."""


class NetworkFacts(BaseModel):
    """How a segmentation network wants its pictures, and what it answers: the ``segmenter.json`` beside an ONNX file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    side: int = Field(ge=32, le=4096, description="Pixels of the square that views are squeezed to.")
    mean: _Channels = Field(description="Of red, green, blue on 0..1; subtracted.")
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        description="Of red, green, blue; divided by."
    )
    divide_by: Literal["255", "maximum"] = Field(
        default="255", description="Maps levels to 0..1: `255`, or the view's own `maximum`, as U²-Net was trained."
    )
    output: Literal["probability", "logits"] = Field(default="probability", description="Meaning of the answer's values.")
    output_name: str | None = Field(default=None, description="The graph's output that is read. Default: its first.")


U2NETP_FACTS = NetworkFacts(side=320, mean=_MEAN, std=_STD, divide_by="maximum")
PRESETS: dict[str, NetworkFacts] = {
    # data_loader.py (ToTensorLab) of github.com/xuebinqin/U-2-Net; u2netp and silueta are the same but for their size.
    "u2net": U2NETP_FACTS,
    # Inference.py of github.com/xuebinqin/DIS, isnet-general-use; RMBG-1.4 is this network and wants the same.
    "isnet": NetworkFacts(side=1024, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)),
    # configs/InSPyReNet_SwinB.yaml (test) of github.com/plemeri/InSPyReNet; the exported graph ends in a sigmoid.
    "inspyrenet": NetworkFacts(side=1024, mean=_MEAN, std=_STD),
    # image_proc.py of github.com/ZhengPeng7/BiRefNet; its exporter leaves the sigmoid to the caller.
    "birefnet": NetworkFacts(side=1024, mean=_MEAN, std=_STD, output="logits"),
    # onnx_run.py beside the weights of PramaLLC/BEN2: ToTensor and nothing else.
    "ben2": NetworkFacts(side=1024, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    # Model card of briaai/RMBG-2.0: BiRefNet's preprocessing; the exported graph ends in a sigmoid.
    "rmbg": NetworkFacts(side=1024, mean=_MEAN, std=_STD),
}
"""Facts of networks that are published without a ``segmenter.json``, by the name that ``outfill models pull --facts`` takes."""
