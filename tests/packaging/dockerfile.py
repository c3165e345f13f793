"""Reads a Dockerfile and does what it says without a container engine, in a folder that stands for `/`.

Understood: the instructions that our Dockerfile uses (FROM with stages, ARG, ENV, WORKDIR, COPY with
--from, RUN, LABEL, USER, ...). Anything else raises, so that the emulation cannot silently skip a step.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

#: Absolute paths of the image that the emulation places in its folder.
_OURS = re.compile(r"(?<![\w./-])/(?=(?:opt|src|etc)(?:/|\b))")


@dataclass
class Instruction:
    word: str
    text: str

    @property
    def exec_form(self) -> list[str]:
        """The JSON array after the word (and after HEALTHCHECK's options)."""
        return json.loads(self.text[self.text.index("[") :])


@dataclass
class Stage:
    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def last(self, word: str) -> Instruction:
        return [i for i in self.instructions if i.word == word][-1]


def parse(text: str) -> tuple[dict[str, str], list[Stage]]:
    """Global ARG defaults, and the stages in order."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        word, _, rest = line.partition(" ")
        instruction = Instruction(word.upper(), " ".join(rest.split()))
        if instruction.word == "FROM":
            base, _, name = instruction.text.partition(" AS ")
            stages.append(Stage(base, name))
        elif stages:
            stages[-1].instructions.append(instruction)
        elif instruction.word == "ARG":
            name, _, value = instruction.text.partition("=")
            arguments[name] = value
        else:
            raise ValueError(f"{instruction.word} before the first FROM")
    return arguments, stages


class Emulation:
    """Builds stages of a Dockerfile under `root`. `path` comes first on PATH and has the image's `python`."""

    def __init__(
        self, dockerfile: Path, context: Path, root: Path, path: Path, *, architecture: str
    ) -> None:
        self._context = context
        self._root = root
        self._path = path
        arguments, stages = parse(dockerfile.read_text())
        self._arguments = arguments | {"TARGETARCH": architecture}
        self.stages = {stage.name: stage for stage in stages}

    def inside(self, text: str) -> str:
        """`text` with the image's paths replaced by those of the folder."""
        return _OURS.sub(f"{self._root}/", text)

    def environment(self, name: str) -> dict[str, str]:
        """ENV of a stage and of the stages it is built from."""
        stage = self.stages[name]
        base = self._expand(stage.base, self._arguments)
        env = self.environment(base) if base in self.stages else {}
        known = dict(self._arguments)
        for instruction in stage.instructions:
            if instruction.word == "ARG":
                argument, _, value = instruction.text.partition("=")
                known.setdefault(argument, value)
            elif instruction.word == "ENV":
                for pair in shlex.split(instruction.text):
                    key, _, value = pair.partition("=")
                    env[key] = self.inside(self._expand(value, known | env))
        return env

    def build(self, name: str, *, timeout_s: float) -> None:
        """Do every step of one stage. CalledProcessError when a RUN fails; its output is in the message."""
        workdir = self._root
        env = {k: v for k, v in os.environ.items() if not k.startswith(("INFEROMETER", "NUMBA"))}
        env |= self.environment(name)
        env["PATH"] = f"{self._path}:/usr/local/bin:/usr/bin:/bin"
        for instruction in self.stages[name].instructions:
            match instruction.word:
                case "WORKDIR":
                    workdir = Path(self.inside(instruction.text))
                    workdir.mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(instruction, workdir)
                case "RUN":
                    done = subprocess.run(
                        ["sh", "-ec", self.inside(instruction.text)],
                        cwd=workdir,
                        env=env,
                        capture_output=True,
                        text=True,
                        timeout=timeout_s,
                        check=False,
                    )
                    if done.returncode != 0:
                        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
                        raise AssertionError(
                            f"RUN {instruction.text}\nended with an error:\n{tail}"
                        )
                case "ENV" | "ARG":
                    pass
                case _:
                    raise ValueError(f"{instruction.word} is not understood in stage {name}")

    def _copy(self, instruction: Instruction, workdir: Path) -> None:
        *sources, target = instruction.text.split()
        if sources[0].startswith("--"):
            raise ValueError(f"COPY {instruction.text}: not in a stage that is built here")
        to = Path(self.inside(target)) if target.startswith("/") else workdir / target
        for source in sources:
            path = self._context / source
            if path.is_dir():
                shutil.copytree(path, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, to / path.name)

    @staticmethod
    def _expand(text: str, known: dict[str, str]) -> str:
        return re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda m: known.get(m[1] or m[2], ""), text)
