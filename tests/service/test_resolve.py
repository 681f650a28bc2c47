"""What a request is resolved to: the samplers and LoRAs that it may name, the model that it gets, the edges of its mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from api_schemas.errors import Invalid, ModelNotFound, ParameterNotSupported
from api_schemas.models import (
    BACKDROP,
    EMBEDDED_MODELS,
    EXEMPLAR,
    SAMPLING_PARAMETERS,
    STUDIO,
    U2NETP,
    EngineKind,
    Licence,
    ModelCard,
    ModelInfo,
    SamplingDefaults,
)
from api_schemas.requests import (
    InpaintRequest,
    JobRequest,
    LoraUse,
    MaskOptions,
    Operation,
    OutpaintRequest,
    RemoveBackgroundRequest,
    ReplaceBackgroundRequest,
    Scheduler,
    Shadow,
    job_request,
)
from service.resolve import MASK_DEFAULTS, default_growth, resolve, ungrown

CARD = ModelCard(
    id="shop",
    engine=EngineKind.DIFFUSION,
    operations=(Operation.INPAINT,),
    description="",
    licence=Licence(id="unknown"),
    revision="1",
    parameters=SAMPLING_PARAMETERS | {"loras"},
    sampling=SamplingDefaults(),
    schedulers=(Scheduler.DDIM, Scheduler.DPMPP_2M_KARRAS),
    loras=("brand", "watercolour"),
)
WITHOUT_LORAS = CARD.model_copy(update={"id": "plain", "parameters": SAMPLING_PARAMETERS, "loras": ()})
MODELS = [ModelInfo(card=card, workers=("w",)) for card in (CARD, WITHOUT_LORAS, EXEMPLAR, BACKDROP)]


def inpaint(**fields: Any) -> JobRequest:
    return job_request.validate_python({"operation": "inpaint", "image": "a", "mask": "b", "prompt": "c", "model": "shop", **fields})


def test_known_loras_are_accepted() -> None:
    """A request may name the model's LoRAs, with weight 1 where it is silent, and by default names none."""
    request, card = resolve(inpaint(loras=[{"name": "brand"}, {"name": "watercolour", "weight": 0.5}]), MODELS)
    assert card is CARD
    assert isinstance(request, InpaintRequest)
    assert request.loras == (LoraUse(name="brand", weight=1.0), LoraUse(name="watercolour", weight=0.5))
    silent, _ = resolve(inpaint(), MODELS)
    assert isinstance(silent, InpaintRequest)
    assert silent.loras == ()


def test_an_unknown_lora_is_refused() -> None:
    """A LoRA that the model does not have is an error of the field ``loras`` that names it."""
    with pytest.raises(Invalid, match="no LoRA 'oil'") as caught:
        resolve(inpaint(loras=[{"name": "brand"}, {"name": "oil"}]), MODELS)
    assert (caught.value.field, caught.value.code) == ("loras", "invalid_request")


@pytest.mark.parametrize("model", ["plain", "exemplar"])
def test_a_model_without_loras_refuses_them(model: str) -> None:
    """A model that would ignore LoRAs refuses them, and an empty list asks for nothing."""
    operation = {"operation": "erase", "prompt": None} if model == "exemplar" else {}
    fields = {key: value for key, value in {**inpaint().model_dump(exclude_unset=True), "model": model, **operation}.items() if value}
    with pytest.raises(ParameterNotSupported) as caught:
        resolve(job_request.validate_python({**fields, "loras": [{"name": "brand"}]}), MODELS)
    assert caught.value.field == "loras"
    assert resolve(job_request.validate_python({**fields, "loras": []}), MODELS)[1].id == model


def test_a_sampler_that_the_model_cannot_take_is_refused() -> None:
    """A sampler that is not on the model's card is an error of the field ``scheduler`` that tells which are."""
    with pytest.raises(ParameterNotSupported, match="it takes ddim, dpmpp_2m_karras") as caught:
        resolve(inpaint(scheduler="pndm"), MODELS)
    assert caught.value.field == "scheduler"
    request, _ = resolve(inpaint(scheduler="ddim"), MODELS)
    assert isinstance(request, InpaintRequest)
    assert request.scheduler is Scheduler.DDIM


@pytest.mark.parametrize(
    "loras",
    [
        [{"name": "brand", "weight": 0}],
        [{"name": "brand", "weight": 2.1}],
        [{"name": "brand", "weight": float("nan")}],
        [{"name": ""}],
        [{"name": "brand", "scale": 1}],
        [{"name": "brand"}, {"name": "brand", "weight": 0.5}],
        [{"name": f"style{number}"} for number in range(5)],
    ],
    ids=["zero", "too strong", "nan", "no name", "unknown field", "twice", "five"],
)
def test_what_is_no_list_of_loras_is_refused(loras: list[dict[str, object]]) -> None:
    """Weights lie above 0 and up to 2, a name stands once, and there are at most four."""
    with pytest.raises(ValidationError) as caught:
        inpaint(loras=loras)
    assert "loras" in caught.value.errors()[0]["loc"]


def test_loras_survive_the_record() -> None:
    """What was resolved is what the worker reads."""
    request, _ = resolve(inpaint(loras=[{"name": "brand", "weight": 0.5}]), MODELS)
    assert job_request.validate_json(job_request.dump_json(request)) == request


@pytest.mark.parametrize("field", ["seed", "guidance_scale"])
def test_a_zero_is_a_value(field: str) -> None:
    """A zero that the model would ignore is refused like any other value."""
    body = {"operation": "replace_background", "image": "a", "background": {"color": "#fff"}, "model": "backdrop", field: 0}
    with pytest.raises(ParameterNotSupported) as caught:
        resolve(job_request.validate_python(body), MODELS)
    assert caught.value.field == field


@pytest.mark.parametrize("guidance_scale", [0, 1])
def test_a_negative_prompt_without_guidance_is_refused(guidance_scale: float) -> None:
    """The model would not look at it."""
    with pytest.raises(Invalid, match="guidance_scale above 1") as caught:
        resolve(inpaint(negative_prompt="people", guidance_scale=guidance_scale), MODELS)
    assert caught.value.field == "negative_prompt"
    assert resolve(inpaint(negative_prompt="people", guidance_scale=1.5), MODELS)
    assert resolve(inpaint(negative_prompt="", guidance_scale=guidance_scale), MODELS)


BY_PROMPT = [
    {"operation": "inpaint", "image": "a", "mask": "b", "prompt": "c"},
    {"operation": "outpaint", "image": "a", "expand": {"left": 8}, "prompt": "c"},
    {"operation": "replace_background", "image": "a", "prompt": "c"},
]
INSTALLED = CARD.model_copy(update={"operations": STUDIO.operations})


@pytest.mark.parametrize("fields", BY_PROMPT, ids=lambda fields: fields["operation"])
def test_studio_paints_prompts_where_nothing_else_is_installed(fields: dict[str, Any]) -> None:
    """Without an installed model a prompt is Studio's, before a worker has announced it too; an installed model goes before it."""
    request = job_request.validate_python(fields)
    embedded = [ModelInfo(card=card, workers=()) for card in EMBEDDED_MODELS]
    assert resolve(request, embedded)[1] is STUDIO
    assert resolve(request, [*embedded, ModelInfo(card=INSTALLED, workers=())])[1] is INSTALLED
    live = [ModelInfo(card=card, workers=("w",)) for card in EMBEDDED_MODELS]
    assert resolve(request, [*live, ModelInfo(card=INSTALLED, workers=("w",))])[1] is INSTALLED


SEGMENTER = U2NETP.model_copy(update={"id": "isnet"})
FINDERS: list[dict[str, Any]] = [
    {"operation": "outpaint", "image": "a", "expand": {"left": 8}},
    {"operation": "replace_background", "image": "a", "background": {"color": "#fff"}},
    {"operation": "remove_background", "image": "a"},
]


def served(**workers: tuple[str, ...]) -> list[ModelInfo]:
    """The embedded models and ``isnet``, each with its workers: ``("w",)`` where none are given."""
    return [ModelInfo(card=card, workers=workers.get(card.id, ("w",))) for card in (*EMBEDDED_MODELS, SEGMENTER)]


def finder_of(request: JobRequest, card: ModelCard) -> str | None:
    """What finds the product of a resolved request."""
    if isinstance(request, RemoveBackgroundRequest):
        assert request.model == card.id
        assert request.subject_model is None
        return card.id
    assert isinstance(request, OutpaintRequest | ReplaceBackgroundRequest)
    return request.subject_model


@pytest.mark.parametrize("fields", FINDERS, ids=lambda fields: fields["operation"])
def test_the_product_is_found_by_the_model_that_is_named(fields: dict[str, Any]) -> None:
    """``subject_model`` names it; else it is the service's default, which is u2netp. A resolved request says which, once."""
    assert finder_of(*resolve(job_request.validate_python(fields), served())) == "u2netp"
    assert finder_of(*resolve(job_request.validate_python(fields), served(), subject_model="isnet")) == "isnet"
    named = job_request.validate_python({**fields, "subject_model": "isnet"})
    resolved, card = resolve(named, served())
    assert finder_of(resolved, card) == "isnet"
    assert job_request.validate_json(job_request.dump_json(resolved)) == resolved
    assert finder_of(*resolve(resolved, served(), is_repeat=True)) == "isnet"


@pytest.mark.parametrize("fields", FINDERS, ids=lambda fields: fields["operation"])
@pytest.mark.parametrize("name", ["nowhere", "exemplar"])
def test_what_is_no_segmenter_finds_nothing(fields: dict[str, Any], name: str) -> None:
    """A ``subject_model`` that is not known, or does something else, is refused by that field's name; so is a default that nobody has."""
    with pytest.raises(ModelNotFound) as caught:
        resolve(job_request.validate_python({**fields, "subject_model": name}), served())
    assert caught.value.field == "subject_model"
    with pytest.raises(ModelNotFound, match="'gone'") as caught:
        resolve(job_request.validate_python(fields), served(), subject_model="gone")
    assert caught.value.field == "subject_model"
    with pytest.raises(ValidationError, match="at least 1 character"):
        job_request.validate_python({**fields, "subject_model": ""})


@pytest.mark.parametrize("fields", FINDERS[:2], ids=lambda fields: fields["operation"])
def test_every_worker_that_may_take_the_job_needs_its_segmenter(fields: dict[str, Any]) -> None:
    """A segmenter that a live worker of the painting model lacks is refused; u2netp, the default and one of the future are not."""
    named = job_request.validate_python({**fields, "subject_model": "isnet"})
    painter = "exemplar" if fields["operation"] == "outpaint" else "backdrop"
    with pytest.raises(ModelNotFound, match=rf"not every worker that serves {painter} has isnet \(1 of 2 lack it\)") as caught:
        resolve(named, served(**{painter: ("v", "w")}))
    assert caught.value.field == "subject_model"
    assert resolve(named, served(isnet=("v", "w")))
    assert resolve(named, served(**{painter: (), "isnet": ()}))
    assert resolve(named, served(isnet=()), subject_model="isnet")
    assert resolve(job_request.validate_python({**fields, "subject_model": "u2netp"}), served(u2netp=()))


def test_model_and_subject_model_are_one_for_a_cut_out() -> None:
    """For ``remove_background`` both fields name the segmenter: either is enough, both may agree, and two names are refused."""
    fields = FINDERS[2]
    for names in ({"model": "isnet"}, {"subject_model": "isnet"}, {"model": "isnet", "subject_model": "isnet"}):
        assert resolve(job_request.validate_python({**fields, **names}), served())[1] is SEGMENTER
    with pytest.raises(ValidationError, match="model and subject_model both name the segmenter") as caught:
        job_request.validate_python({**fields, "model": "isnet", "subject_model": "u2netp"})
    assert caught.value.errors()[0]["ctx"]["field"] == "subject_model"
    for unknown in ("nowhere", ""):
        with pytest.raises(ModelNotFound) as refused:
            resolve(job_request.validate_python({**fields, "model": unknown}), served())
        assert refused.value.field == "model"


@pytest.mark.parametrize("mask", ["mask", "product_mask"])
def test_nothing_is_looked_for_where_a_mask_says_it(mask: str) -> None:
    """With a mask no ``subject_model`` may be named for ``replace_background``, and the resolved request has none."""
    fields = {**FINDERS[1], mask: "b"}
    resolved, _ = resolve(job_request.validate_python(fields), served(), subject_model="isnet")
    assert isinstance(resolved, ReplaceBackgroundRequest)
    assert resolved.subject_model is None
    with pytest.raises(ValidationError, match="the mask says what the product is") as caught:
        job_request.validate_python({**fields, "subject_model": "isnet"})
    assert caught.value.errors()[0]["ctx"]["field"] == "subject_model"


def test_studio_goes_before_a_model_that_was_retired() -> None:
    """A model that no live worker serves is nobody's default while a live one serves Studio."""
    live = [ModelInfo(card=card, workers=("w",)) for card in EMBEDDED_MODELS]
    request = job_request.validate_python(BY_PROMPT[0])
    assert resolve(request, [*live, ModelInfo(card=INSTALLED, workers=())])[1] is STUDIO


def test_erasing_stays_with_the_exemplar() -> None:
    """Neither Studio nor an installed model is the default for erase."""
    models = [ModelInfo(card=card, workers=("w",)) for card in (*EMBEDDED_MODELS, INSTALLED)]
    request = job_request.validate_python({"operation": "erase", "image": "a", "mask": "b"})
    assert resolve(request, models)[1] is EXEMPLAR


FIELDS: dict[Operation, dict[str, Any]] = {
    Operation.INPAINT: {"prompt": "c", "model": "shop"},
    Operation.ERASE: {},
    Operation.REPLACE_BACKGROUND: {"background": {"color": "#ffffff"}},
}


def edges(operation: Operation, **options: int) -> tuple[int, int]:
    """The growth and the feather that a mask with ``options`` gets."""
    asked = {"operation": operation, "image": "a", "mask": "b", **FIELDS[operation], **({"mask_options": options} if options else {})}
    resolved, _ = resolve(job_request.validate_python(asked), MODELS)
    chosen = getattr(resolved, "mask_options")  # noqa: B009 -- not all requests have them
    return chosen.grow_px, chosen.feather_px


@pytest.mark.parametrize("operation", MASK_DEFAULTS)
def test_by_default_a_feather_is_at_most_the_growth(operation: Operation) -> None:
    """Whatever growth is asked for, the default feather fits into it; what is asked for stands, alone or with the other."""
    grow, feather = MASK_DEFAULTS[operation]
    assert edges(operation) == (grow, feather)
    assert feather <= grow
    for px in (0, 1, 5, 40):
        assert edges(operation, grow_px=px) == (px, min(px, feather))
        assert edges(operation, feather_px=px) == (grow, px)
        assert edges(operation, grow_px=3, feather_px=px) == (3, px)


def test_only_a_growth_that_nobody_asked_for_is_taken_back() -> None:
    """Where a mask has no room the default growth goes, and its feather with it; a feather that was asked for stays, and so does a growth."""
    base: dict[str, Any] = {"operation": "erase", "image": "a", "mask": "b"}
    for options, growth, left in (({}, 8, (0, 0)), ({"feather_px": 3}, 8, (0, 3)), ({"grow_px": 8}, 0, None)):
        request = job_request.validate_python({**base, "mask_options": options})
        resolved, _ = resolve(request, MODELS)
        assert default_growth(request, resolved) == growth
        if left is not None:
            chosen = getattr(ungrown(request, resolved), "mask_options")  # noqa: B009 -- not all requests have them
            assert (chosen.grow_px, chosen.feather_px) == left
    outpaint = job_request.validate_python({"operation": "outpaint", "image": "a", "expand": {"left": 5}})
    assert default_growth(outpaint, resolve(outpaint, MODELS)[0]) == 0


def test_the_defaults_are_told_as_they_are() -> None:
    """The page for callers has a row for each operation that takes a mask, with its growth and feather; the schema names the same growths."""
    page = Path("docs/using.md").read_text(encoding="utf-8")
    described = MaskOptions.model_fields["grow_px"].description or ""
    for operation, (grow, feather) in MASK_DEFAULTS.items():
        assert f"| `{operation}` | {grow} | {feather} |" in page
        assert f"{grow} for `{operation}`" in described


def test_an_extension_has_a_strength_of_its_own() -> None:
    """Studio extends from the colours of the photo's edge unless a strength is named; what else it paints begins from nothing."""
    models = [ModelInfo(card=card) for card in EMBEDDED_MODELS]
    extension = {"operation": "outpaint", "image": "upload:a", "prompt": "grass", "expand": {"left": 9}}
    fill = {"operation": "inpaint", "image": "upload:a", "mask": "upload:b", "prompt": "grass"}
    resolved = [resolve(job_request.validate_python(each), models)[0] for each in (extension, {**extension, "strength": 0.95}, fill)]
    assert [getattr(request, "strength", None) for request in resolved] == [0.7, 0.95, 1.0]


@pytest.mark.parametrize(
    ("asked", "fill", "margins"),
    [
        ({}, 0.85, (0.075, 0.075, 0.075, 0.075)),
        ({"fill": 0.6}, 0.6, (0.2, 0.2, 0.2, 0.2)),
        ({"margins": {"bottom": 0.1}}, 1.0, (0, 0, 0, 0.1)),
        ({"fill": 0.5, "margins": {}}, 0.5, (0, 0, 0, 0)),
    ],
)
def test_a_placement_is_resolved_to_its_last_share(asked: dict[str, Any], fill: float, margins: tuple[float, ...]) -> None:
    """Without a fill a product takes 85 %, or what the margins leave; without margins what the fill leaves is shared by both sides."""
    for operation in ({"operation": "replace_background", "background": {"color": "#fff"}}, {"operation": "remove_background"}):
        request = job_request.validate_python({"image": "a", "placement": asked, **operation})
        placement = getattr(resolve(request, [ModelInfo(card=card) for card in EMBEDDED_MODELS])[0], "placement")  # noqa: B009 -- not all have one
        assert placement.fill == fill
        assert (placement.margins.left, placement.margins.right, placement.margins.top, placement.margins.bottom) == margins
        again = job_request.validate_python({"image": "a", "placement": placement.model_dump(), **operation})
        assert getattr(resolve(again, [ModelInfo(card=card) for card in EMBEDDED_MODELS])[0], "placement") == placement  # noqa: B009


def test_by_default_a_picture_is_contained() -> None:
    """Where both sides are given and the request does not say how, the recipe says so."""
    models = [ModelInfo(card=card) for card in EMBEDDED_MODELS]

    def fit(**output: Any) -> str | None:
        request = job_request.validate_python({"operation": "erase", "image": "a", "mask": "b", "output": output})
        return resolve(request, models)[0].output.fit

    assert fit(width=5, height=6) == "contain"
    assert fit(width=5, height=6, fit="cover") == "cover"
    assert fit(width=5) is None


def test_a_cast_shadow_has_a_light() -> None:
    """A cast shadow that names no light gets one, which its record keeps; a contact shadow that names one is refused, by the field."""
    cast = Shadow.model_validate({"type": "cast", "length": 0.5})
    assert (cast.angle_deg, cast.length) == (315.0, 0.5)
    assert Shadow.model_validate_json(cast.model_dump_json()) == cast
    contact = Shadow()
    assert Shadow.model_validate_json(contact.model_dump_json()) == contact
    for name, value in (("angle_deg", 90), ("length", 1)):
        with pytest.raises(ValidationError, match="has a light") as caught:
            Shadow.model_validate({name: value})
        assert caught.value.errors()[0]["ctx"]["field"] == name
