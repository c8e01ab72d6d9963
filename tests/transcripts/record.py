"""Write the transcripts anew: `PYTHONPATH=src python -m tests.transcripts.record`, then look at what `git diff` says.

A change of these files is a change of the wire contract.
"""

import asyncio

from tests.transcripts.index import Entry, bodies, entry, write
from tests.transcripts.scenes import SCENES, Scene
from tests.transcripts.stage import Exchange, stage


async def play(scene: Scene) -> list[Exchange]:
    """Play a scene on a gateway of its own; give its exchanges."""
    async with stage(scene.settings) as made:
        await scene.play(made)
    return made.exchanges


async def record() -> None:
    """Play all scenes and write what they gave."""
    entries: list[Entry] = []
    contents: dict[str, bytes] = {}
    for scene in SCENES:
        exchanges = await play(scene)
        entries.append(entry(scene, exchanges))
        contents |= bodies(scene, exchanges)
    write(entries, contents)


if __name__ == "__main__":
    asyncio.run(record())
