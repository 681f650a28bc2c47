"""The word list that goes with the model: the words of its captions, what they are for, and what is read as one of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.studio import captions
from training.studio.captions import words
from training.studio.colours import NAMED, SHADES, SYNONYMS

_BACKDROPS: tuple[Any, ...] = (
    captions.WALLS, captions.SURFACES, captions.LIGHTS, captions.WARMTHS, captions.WOOD_TONES, captions.MARBLE_TONES, captions.BRICK_TONES,
    SHADES, SYNONYMS, tuple(NAMED), captions.PAPERS, captions.GRADIENTS, captions.PODIUMS, captions.FLATS,
)  # fmt: skip
"""What speaks of a scene; products, openings and endings do not."""
_JOINTS = """
a about above across after against along alongside among amongst an and are around as at atop before behind
below beneath beside besides between beyond but by down during except featuring following for from front has have
having her his in including inside into is it its like lying my near nearby next no not nothing of off on onto
opposite or our out outside over past per placed plus resting set since sitting some standing surrounded that
the their there these this those through throughout to toward towards under underneath up upon using very via
was where which while with within without your
"""
_PLACES = "on in against before behind atop upon onto inside under beneath over above standing sitting resting lying placed set"
_CARRIERS = """
beach board bokeh brick bricks carrara cement cloth concrete counter countertop curtain desk drapes driftwood
fabric floor garden gradient grass lawn light lighting lights linen marble meadow nature oak ocean panels
paper park pedestal plain planks platform plinth podium sand sandy sea seamless seaside shadow shadows sky
slab slate solid spotlight studio sun sunlight surface table tablecloth tabletop teak terrazzo textile tile
tiled tiles travertine trees wall walnut window wood wooden
"""
"""Without colours and other adjectives: red baubles are not heard for being red."""
_NEGATIONS = "no not nothing without"
_EXCEPTIONS = "but except"
_LIGHTS = """
afternoon airy ambient atmosphere bright cinematic cold cool dappled dark dawn daylight diffuse dim direct
dramatic dusk even evening glow golden hard high hour key leaf leaves light lighting lights low mood moody
morning natural night palm plant pool shade shadow shadows soft spot spotlight strong studio sun sunlight
sunny sunset tones warm window
"""
"""Leaves, palms and windows are among them: Studio knows them by their shadows and their light."""
_SCENES = """
airport alley alps apartment arcade attic avenue backyard bakery balcony barn basement bathroom bay bazaar
bedroom bistro boulevard boutique cabin cafe café campsite canyon castle cathedral cave cellar chalet chateau
church cityscape classroom cliff cliffs clinic coast coastline condo corridor cottage countryside courtyard
creek desert diner downtown dunes factory farm farmhouse fjord forest forests garage glacier glade greenhouse
grocery gym hallway harbor harbour hill hills hillside home hotel house hut interior interiors island jungle
kitchen laboratory lagoon lake lakeside landscape landscapes library lobby loft lounge mall mansion market
marsh mountain mountains museum neighborhood nightclub nursery oasis office orchard palace pantry patio peaks
pier playground playroom plaza pond porch prairie pub rainforest ranch reef resort restaurant river riverbank
road rooftop room rooms ruins salon sauna savanna savannah school shop shopfront shore showroom skyline
skyscrapers stadium staircase store storefront stream street streets suburb subway sunrise supermarket swamp
tavern temple terrace theater theatre town tundra tunnel valley veranda villa village villas vineyard volcano
warehouse waterfall wilderness winery woodland woods workshop yard
"""
_GOODS = """
accessory appliance armchair balm basket bed bench blanket blender boot bracelet brush bulb cable candles
cap cardholder cereal charger cleanser clutch coat cologne console controller cookie cookware couch cufflinks
cushion deodorant detergent device diffuser dress earbuds earrings espresso eyeliner fan flask foundation
fragrance fridge furniture gadget gin glasses glove gloves hairdryer headset heels hoodie honey jacket jeans
jewellery jewelry jug keyboard keychain loafers mascara mask microphone microwave moisturiser moisturizer
monitor mouse mousse ointment oven palette pants pencil pendant pillow pitcher planter pottery printer
purse razor rucksack sandal sandals sauce scarf scissors scooter screen shampoo shaver shoes skateboard
skincare slippers smartphone smartwatch sneakers sock socks sofa spoon stool suitcase sunscreen supplement
supplements sweater syrup tablet television thermos tin toaster toner toothbrush toothpaste trainers trousers
tumbler turntable umbrella vitamins vodka wallet wallets whiskey whisky wine wristwatch
"""
"""Products that the captions do not name, for which a prompt may open with them."""
_IDLE = """
ad ads advert advertisement advertising aesthetic aesthetically amazing amazon ambiance ambience angle
aperture appealing appetising arranged artstation atmosphere atmospheric attractive award awarded background
beautifully behance best brand branded branding business camera campaign canon catalog catalogue center
centered centre centred charming clarity classy clear close closeup color colorful colors colour colourful
colours commerce commercial composed composition contemporary contrast cosy cozy crisp cute defined definition
depth detail detailed details directional dof dslr e ecommerce editorial effect elegance end engine essential
essentials excellent exposure extremely eye f feel feeling feels field film fine focal focused foreground
fresh fujifilm full good gorgeous grade graded great hand handcrafted handmade hasselblad hd hdr highlights
highly hyper hyperdetailed hyperrealistic ideal image images influencer instagram intricate inviting iso kodak
left leica length lens lenses lifelike lifestyle look looking looks lovely luxurious luxury macro magazine
main marketing masterpiece max media megapixel middle minimalism minimalist minimalistic mm mockup model
modern natural neat neutral nice nikon octane one online optimal original perfect perfectly perspective phase
photo photograph photographed photographer photographic photographs photography photoreal photorealism photos
pic picture pinterest portra portrait premium presentation presented pretty pro product products
professionally pure quality raw ray real realism realistically render rendered rendering res resolution retail
rich right sale scene sell selling setting setup shallow sharpness shoot shooting shop shopify shot shots
showcase showcased showcasing side sides simple simplicity sleek social sony sophisticated space special
stunning style styled styling stylish subject subtle suitable super superb tasteful tidy timeless touch traced
tracing trending trendy true uhd ultra ultrarealistic uncluttered unreal vibe vibes vibrant view visual
visuals volumetric vray web website wide winner winning zoom
"""
_CAMERAS = """
a b c d e f g h i j k l m n o p q r s t u v w x y z ai alpha balance balanced banner bit cinematic cm copy
desaturated dpi ebay ef else eos etsy fps framing fuji gfx grading grain grainy handheld header hero homepage
horizontal ii iii industrial isometric iv kelvin landing level listing lumix mark mirrorless mk mp negative
nikkor nordic olympus others overexposed panasonic pentax phaseone portrait px ratio rf rule saturated
saturation scandi scandinavian sigma symmetrical symmetry tack tamron telephoto template thirds thumbnail
tripod vertical vignette vignetting wideangle zeiss
"""
"""Cameras (Canon EOS R5, A7 III), units of lenses, films and files (85mm, 5500K, 300dpi), framing."""
_READ_AS = {
    "backlit": "light", "backlighting": "light", "softbox": "soft light", "softboxes": "soft light", "strobe": "light",
    "sunshine": "sunlight", "sunlit": "sunlight", "sunny": "sunlight", "daylight": "natural light", "backlight": "light", "lit": "light",
    "illuminated": "light", "illumination": "lighting", "sunbeam": "sunlight", "sunbeams": "sunlight", "shade": "shadow",
    "timber": "wood", "hardwood": "wood", "plywood": "wood", "oaken": "oak", "worktop": "countertop", "benchtop": "countertop",
    "tabletops": "tabletop", "sideboard": "table", "backdrops": "backdrop", "backgrounds": "background", "cyclorama": "seamless backdrop",
    "marbled": "marble", "stony": "stone", "slates": "slate", "cotton": "linen", "burlap": "linen", "hessian": "linen", "velvet": "fabric",
    "satin": "fabric", "silk": "fabric", "draped": "drapes", "foliage": "leaves", "seashore": "beach", "shore": "beach", "seascape": "sea",
    "grassy": "grass", "brickwork": "brick", "shadowy": "moody", "gloomy": "moody", "spotlit": "spotlight",
    "azure": "sky blue", "cobalt": "blue", "indigo": "navy", "crimson": "red", "scarlet": "red", "taupe": "beige", "khaki": "olive",
    "graphite": "charcoal", "offwhite": "off white", "greyish": "grey", "grayish": "gray", "bluish": "blue", "greenish": "green",
    "reddish": "red", "pinkish": "pink", "brownish": "brown", "yellowish": "yellow",
}  # fmt: skip
_BEHIND = {"background", "backdrop"}
_NOUNS = """
backdrop beach brick cloth concrete counter countertop curtain desk fabric floor garden gradient lawn leaf
light meadow panel park pedestal plank platform plinth podium shadow slab spotlight stand stone surface table
tablecloth tabletop textile texture tile tone tree wall window
"""
"""Of which the captions have the one or the many, and a prompt may have the other."""


def vocabulary() -> dict[str, Any]:
    """The content of ``vocabulary.json`` (``worker/engines/vocabulary.py``)."""
    known, scenery = set(words()), _words_of(_BACKDROPS)
    spoken = _words_of((captions.OPENINGS, captions.ENDINGS)) | set(_IDLE.split()) | set(_CAMERAS.split())
    joints = set(_JOINTS.split())
    things = (_words_of((captions.PRODUCTS,)) | set(_GOODS.split())) - scenery - spoken
    read_as = {**dict(_inflected(known)), **_READ_AS}
    return {
        "words": sorted(known),
        "read_as": dict(sorted(read_as.items())),
        "carriers": sorted(_CARRIERS.split()),
        "things": sorted(things | {f"{thing}s" for thing in things if not thing.endswith("s")}),
        "idle": sorted(spoken - scenery | _BEHIND | {"scene", "coloured", "texture", "display"}),
        "joints": sorted(joints),
        "places": sorted(_PLACES.split()),
        "negations": sorted(_NEGATIONS.split()),
        "exceptions": sorted(_EXCEPTIONS.split()),
        "lights": sorted(_LIGHTS.split()),
        "backdrops": sorted(_BEHIND),
        "scenes": sorted(_SCENES.split()),
    }


def write_vocabulary(directory: Path) -> None:
    """Write ``vocabulary.json``, a list to a line."""
    lines = ",\n".join(f'  "{name}": {json.dumps(content, ensure_ascii=False)}' for name, content in vocabulary().items())
    (directory / "vocabulary.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def _inflected(known: set[str]) -> Iterator[tuple[str, str]]:
    """Plurals of what was taught as one, and the one of what was taught as many."""
    for one in _NOUNS.split():
        many = "leaves" if one == "leaf" else f"{one}s"
        if (one in known) != (many in known):
            yield (one, many) if many in known else (many, one)


def _words_of(texts: Any) -> set[str]:
    """All words of nested tables of caption parts."""
    if isinstance(texts, str):
        return set(re.findall(r"[a-z]+", re.sub(r"\{\w*\}", " ", texts.lower())))
    if isinstance(texts, dict):
        texts = texts.values()
    return set().union(*map(_words_of, texts))
