"""The Dockerfile, read as far as the tests need it: stages, what they copy, and how they start."""

import json
import re
import shlex

from chart import ROOT

DOCKERFILE = ROOT / "deploy/docker/Dockerfile"


class Stage:
    def __init__(self, base, name):
        self.base, self.name = base, name
        self.steps = []

    def last(self, word):
        """What the last step of this kind says."""
        return next((rest for it, rest in reversed(self.steps) if it == word), None)


def stages():
    """The stages in order, by name."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    found = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = re.fullmatch(r"(\S+)( AS (\S+))?", rest).groups()
            current = found[name] = Stage(base, name)
        elif found:
            current.steps.append((word, rest.strip()))
    return found


def copies(stage):
    """What a stage copies: (from which stage or the context, source, destination)."""
    for word, rest in stage.steps:
        if word == "COPY":
            words = shlex.split(rest)
            origin = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
            *sources, destination = words
            yield from ((origin, source, destination) for source in sources)


def lineage(name):
    """A stage and those it is made from, from the first on."""
    found, all_stages = [], stages()
    while name in all_stages:
        found.insert(0, all_stages[name])
        name = all_stages[name].base
    return found


def entrypoint(name):
    return json.loads(next(filter(None, (it.last("ENTRYPOINT") for it in reversed(lineage(name))))))


def user(name):
    """The ids of the user whom the image runs as."""
    named = next(filter(None, (it.last("USER") for it in reversed(lineage(name)))), "0:0")
    return tuple(map(int, named.split(":")))
