"""Plain paragraphs about other things: what a model is not to change on, and a control."""

ANCHORS = (
    "Rivers carry more than water. In spring they bring down sand and gravel from the hills, and "
    "where the land is flat and the current slow they drop it again, so that banks grow on one "
    "side and wear away on the other.",
    "To make the dough, mix the flour with a pinch of salt, add warm water a little at a time, and "
    "knead it until it no longer sticks to your hands. Let it rest under a cloth for an hour.",
    "The first railway of the county ran from the quarry to the harbour. It was built for stone, "
    "and only ten years later was a single coach for passengers put behind the wagons.",
    "Bees tell each other where flowers are by dancing on the comb. The angle of the dance shows "
    "the direction, and how long it lasts shows how far there is to fly.",
    "The committee met on Tuesday to talk about the new roof of the school. Two firms had sent "
    "their offers; the cheaper one could not begin before the autumn.",
    "A fraction stays the same if its top and its bottom are multiplied by the same number. So one "
    "half, two quarters and fifty hundredths are three names for one amount.",
)
HELD_OUT = (
    "The lighthouse stood at the end of the pier. On clear nights its beam could be seen from the "
    "hills on the other side of the bay, and fishermen set their clocks by it.",
    "Copper conducts heat well, which is why good pans often have a layer of it in their base. It "
    "also reacts with sour food, so the inside is lined with steel.",
    "My grandmother kept her letters in a tin box under the stairs. When we opened it after many "
    "years, the oldest were tied with a green ribbon and smelled of lavender.",
    "In chess the knight is the only piece that jumps over others. It moves two squares in one "
    "direction and one to the side, and always lands on a square of the other colour.",
    "Trains to the coast leave every hour from platform four. On Sundays the first one goes at "
    "nine, and bicycles can be taken along for a small fee.",
    "Clouds form when moist air rises and cools. The water gathers around tiny grains of dust, and "
    "once the drops are heavy enough they fall as rain.",
    "The painter mixed her own colours from earth and oil. For the sky she used a blue that came "
    "from far away and cost more than all the others together.",
    "If a number ends in zero or five, it can be divided by five. If the sum of its digits can be "
    "divided by three, so can the number itself.",
)
