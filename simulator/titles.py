"""What the pings of a world are called. Only people read it: no service is told a title, and none learns from one."""

from typing import Final

ANGLES: Final = (
    "in one minute",
    "the slow way",
    "what went wrong",
    "for beginners",
    "five small tricks",
    "one year later",
    "your questions answered",
    "the honest version",
)
SUBJECTS: Final = {
    "animals": ("Cats of the old harbour", "Training a stubborn beagle", "Urban foxes", "A parrot that whistles"),
    "art": ("Watercolour skies", "Drawing hands", "A mural in three nights", "Museum corners no one visits"),
    "books": ("Short novels worth a weekend", "Reading the classics", "Second-hand finds", "A chapter a day"),
    "cars": ("Rebuilding a 1987 estate", "City driving, electric", "Rust repair", "Weekend rally notes"),
    "comedy": ("Open mic night", "Flatmate impressions", "Office small talk", "A joke told badly"),
    "cooking": ("Sourdough at home", "Weeknight curry", "Knife skills", "Leftover rice"),
    "dance": ("Salsa basics", "A studio warm-up", "Learning the shuffle", "Two left feet"),
    "diy": ("A shelf without screws", "Fixing a dripping tap", "Pallet furniture", "Painting a small room"),
    "education": ("Fractions that make sense", "Learning Portuguese", "Study plans", "Memory palaces"),
    "fashion": ("A capsule wardrobe", "Mending denim", "Thrift shop coats", "One jacket, many outfits"),
    "film": ("Films under ninety minutes", "Long takes", "Practical effects", "Endings that work"),
    "fitness": ("Mobility before breakfast", "Couch to five kilometres", "Kettlebells at home", "Rest days"),
    "football": ("Sunday league", "The offside trap", "Penalty nerves", "Transfer rumours"),
    "gaming": ("Speedrunning a classic", "Cosy farming games", "Building a castle", "Couch co-op"),
    "gardening": ("Tomatoes on a balcony", "Composting", "Pruning roses", "A herb shelf"),
    "music": ("Four chords", "Recording in a wardrobe", "Learning the cello", "Street drummers"),
    "news": ("The week in transit", "Council meetings", "A strike explained", "Local elections"),
    "parenting": ("Bedtime", "Lunch boxes", "First day of school", "Rainy afternoons"),
    "science": ("Why the sky is blue", "Kitchen chemistry", "Tides", "A telescope on a budget"),
    "travel": ("Night trains", "Lisbon on foot", "Packing light", "A detour through the hills"),
}


def titles() -> dict[str, list[str]]:
    """Every title that a ping may have, by its first topic."""
    return {topic: [f"{subject}: {angle}" for angle in ANGLES for subject in SUBJECTS[topic]] for topic in SUBJECTS}
