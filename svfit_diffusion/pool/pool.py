"""ConceptPool: many concepts in memory, and each picture of a batch with its own.

    pool = ConceptPool(pipe, "concepts/")
    pool(["a photo of sks dog", "sks mug", "a cat"], [{"rex": 0.8}, {"mug": 1}, {}]).images

A concept takes about as many bytes as its file; nothing of the pipeline grows with their number.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import remembering
from ..concept import Concept, Trigger, locate, printable, read_concept
from ..families import recognise
from ..pipeline import (
    BatchLayers,
    BatchWords,
    adapter_layers,
    adapter_name,
    at_rest,
    check_strength,
    loaded_concepts,
    one_at_a_time,
    set_pooled,
    trigger_clash,
    trigger_words,
)
from .admission import Admission
from .resident import Origin, Resident, compact

SUFFIX = ".safetensors"


class ConceptPool:
    """Concepts of one base by name, beside those that load_concept puts on the pipeline.

    folder: its concept files are there by their names, and read when they are first used; a file
    that has changed is read again. keep: how many of them stay in memory; those that were used
    least recently go first. basis_from: as of load_concept, for all. name: of the adapter that the
    pool puts on the pipeline. ValueError for a folder that is none, or a name that is taken.
    """

    def __init__(
        self,
        pipe: Any,
        folder: str | Path | None = None,
        basis_from: str | None = None,
        name: str = "pool",
        keep: int = 10_000,
    ) -> None:
        self.pipe, self.name, self.keep = pipe, adapter_name(name), keep
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None and not self.folder.is_dir():
            raise ValueError(f"{printable(str(folder))} is not a folder; name one with concepts.")
        family = recognise(pipe)
        if any(self.name in layer.svfit_scaling for layer in adapter_layers(pipe)):
            raise ValueError(
                f"the pipeline already has an adapter named {self.name!r}; close that pool, or "
                "pass another name."
            )
        self._admission = Admission(pipe, family, basis_from)
        self._layers = BatchLayers(pipe, family, self.name, self._admission.folders)
        self._words = BatchWords(pipe, family, self.name)
        self._held: OrderedDict[str, Resident] = OrderedDict()
        self._for_all: dict[str, float] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """How many concepts there are, files that were not read yet among them."""
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        """Their names, in order."""
        files = self.folder.glob(f"*{SUFFIX}") if self.folder else ()
        return iter(sorted({*self._held, *(path.stem for path in files)}))

    def __contains__(self, name: object) -> bool:
        """Whether there is a concept of this name."""
        return isinstance(name, str) and (name in self._held or self._file(name) is not None)

    @property
    def resident(self) -> int:
        """How many concepts are in memory."""
        return len(self._held)

    def triggers(self, name: str) -> tuple[Trigger, ...]:
        """The words that call a concept; never waits for pictures that are being generated."""
        held = self._held.get(name)
        if held is not None and held.origin is None:
            return held.triggers
        path = self._file(name)
        if path is None:
            raise ValueError(self._no_concept(name))
        return trigger_words(read_concept(path))

    def add(
        self, concept: Concept | str | Path, name: str | None = None, token: str | None = None
    ) -> str:
        """Take a concept into memory, and return its name in the pool: by default its file's.

        token: another word to call it by. ValueError, with the pool as it was, where the concept is
        not of this base, or the name is taken.
        """
        stem = Path(concept).stem if isinstance(concept, str | Path) else ""
        read = concept if isinstance(concept, Concept) else read_concept(locate(concept))
        name = name or stem or read.token or "concept"
        with self._lock:
            if name in self:
                raise ValueError(f"the pool already has a concept {name!r}; pass another name.")
            self._held[name] = self._admit(read, token)
        return name

    def remove(self, name: str) -> None:
        """Take a concept out of memory; one of the folder is there until its file is deleted."""
        with self._lock:
            if name in self._for_all:
                self.set_concepts({n: s for n, s in self._for_all.items() if n != name})
            if self._held.pop(name, None) is None:
                raise ValueError(self._no_concept(name))

    def set_concepts(self, strengths: Mapping[str, float]) -> None:
        """Use these concepts at these strengths for every picture, and no other of the pool."""
        with self._lock:
            self._use([strengths])
            self._for_all = dict(strengths)
            set_pooled(self.pipe, self.name, strengths)

    def __call__(
        self,
        prompt: str | Sequence[str],
        concepts: Sequence[Mapping[str, float]],
        num_images_per_prompt: int = 1,
        **options: Any,
    ) -> Any:
        """Call the pipeline with concepts for each prompt: name -> strength, {} for none.

        A negative prompt is read as its prompt is. options: of the pipeline's call; a second or a
        negative prompt may be one text for all. ValueError, before anything is generated, for
        another number of concepts than prompts, or a concept that is not there or not of this base.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if len(concepts) != len(prompts) or isinstance(concepts, Mapping):
            raise ValueError(
                f"concepts were given for {len(concepts)} of {len(prompts)} prompts; pass a list "
                "with one dict for each, {} for none."
            )
        for key, text in options.items():
            if isinstance(text, str) and "prompt" in key:
                options[key] = [text] * len(prompts)
        family = recognise(self.pipe)
        for key, texts in {"prompt": prompts, **options}.items():
            is_text = "prompt" in key and isinstance(texts, list)
            if is_text and not family.batches(self.pipe, texts):
                raise ValueError(
                    f"on this base, pictures of these {key}s in one batch would not be those that "
                    "each has alone; call it for each alone."
                )
        with self._lock:
            try:
                self._use(concepts, num_images_per_prompt)
                return self.pipe(
                    prompt=prompts, num_images_per_prompt=num_images_per_prompt, **options
                )
            finally:
                self._use([self._for_all])

    def close(self) -> None:
        """Take the pool off the pipeline, which is then as it was before."""
        with self._lock, at_rest(self.pipe):
            self._words.remove()
            self._layers.remove()
            self._held.clear()
            self._for_all = {}

    @one_at_a_time
    def _use(self, batch: Sequence[Mapping[str, float]], pictures: int = 1) -> None:
        """Put the concepts of each prompt on the pipeline; one that all have costs less."""
        rows, found = self._checked(batch)
        if all(row == rows[0] for row in rows):
            rows, pictures = rows[:1], 1
        self._layers.fit()
        deltas = np.zeros((len(rows), self._layers.width()), np.float32)
        plans = [one.plan for one in found.values()]
        commons = {p: np.zeros((len(rows), p.common), np.float32) for p in plans if p.common}
        for number, row in enumerate(rows):
            for name, strength in row.items():
                one = found[name]
                deltas[number, self._layers.columns(one.plan)] += strength * one.deltas()
                if one.plan.common:
                    commons[one.plan][number] += strength * one.common()
        self._layers.put(deltas, plans, pictures, commons)
        self._words.put(rows, {name: one.triggers for name, one in found.items()})

    def _checked(
        self, batch: Sequence[Mapping[str, float]]
    ) -> tuple[list[dict[str, float]], dict[str, Resident]]:
        """Concepts of prompts with strengths as numbers, and name -> each of them."""
        rows = [{name: check_strength(s) for name, s in row.items()} for row in batch]
        found = {name: self._resident(name) for row in rows for name in row}
        for row in rows:
            self._check_words(row, found)
        return rows, found

    def _check_words(self, row: Mapping[str, float], found: Mapping[str, Resident]) -> None:
        """ValueError where two concepts of one picture are called by the same word."""
        known = {name: entry.triggers for name, entry in loaded_concepts(self.pipe).items()}
        for name in row:
            for other, triggers in known.items():
                if word := trigger_clash(found[name].triggers, triggers):
                    raise ValueError(
                        f"{other!r} and {name!r} are both called by {printable(word, 60)!r}; use "
                        "one of them in a picture, or add one with another word (token=)."
                    )
            known[name] = found[name].triggers

    def _resident(self, name: str) -> Resident:
        """The concept of a name, from memory or its file."""
        held = self._held.get(name)
        if held is None or held.origin is not None:
            path = self._file(name)
            if path is None:
                self._held.pop(name, None)
                raise ValueError(self._no_concept(name))
            origin = Origin.of(path)
            if held is None or held.origin != origin:
                held = self._admit(read_concept(path), origin=origin)
                self._held[name] = held
        self._held.move_to_end(name)
        self._forget_some()
        return held

    def _forget_some(self) -> None:
        """Let go of concepts that can be read again, down to `keep` of them."""
        while len(self._held) > self.keep:
            oldest = next((n for n, one in self._held.items() if one.origin is not None), None)
            if oldest is None or oldest == next(reversed(self._held)):
                return
            del self._held[oldest]

    def _file(self, name: str) -> Path | None:
        """The file of a name in the folder, None where there is none."""
        if self.folder is None or not name or Path(name).name != name or "\0" in name:
            return None
        path = self.folder / f"{name}{SUFFIX}"
        try:
            return path if path.is_file() else None
        except OSError:  # of a name that is too long
            return None

    def _admit(
        self, concept: Concept, token: str | None = None, origin: Origin | None = None
    ) -> Resident:
        """A concept in memory, once it is known to fit the base."""
        triggers = trigger_words(concept, token)
        with at_rest(self.pipe), remembering():
            plan = self._admission.check(concept)
        self._layers.want(plan, concept.targets)
        return Resident(plan, triggers, compact(concept), origin)

    def _no_concept(self, name: str) -> str:
        where = f" in the folder {printable(str(self.folder))}" if self.folder else ""
        return f"there is no concept {printable(str(name), 60)!r} in the pool{where}."
