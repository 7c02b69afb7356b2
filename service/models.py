"""Which versions are loaded, and which of them answers a request: new ones come and old ones go with no downtime.

The registry's aliases are followed. A version that comes is verified, loaded beside what is there, warmed, tried on its
smoke clip, and only then answers; who holds the version before keeps it to the end of the request, and its memory is
given back. A version that fails on the way is refused and reported, and not tried again until its alias moves, or, if
nothing answers yet, for a while. No HTTP here, and nothing of what is in a version: `service.lookup` reads the
registry, `service.loading` makes engines.
"""

import asyncio
import gc
import hashlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Literal, NamedTuple

from registry import DamagedVersionError, RegistryError, Stamp
from service.loading import CLIP_SAMPLES, Model, Untuned, load_tuned, step_back, try_out
from service.lookup import Target, beside, how_to_serve, is_alias, reason, stamp, target
from service.metrics import Metrics
from service.scheduler import Batch, Scheduler
from service.settings import Settings
from service.state import Loaded, NotReady, Refused
from service.tuning import tune_when_idle
from speech.engine.allocator import return_freed_memory
from speech.engine.tuning import Tuning
from speech.smoke import SmokeError

logger = logging.getLogger("whisperloop.service")

WHISPER_1 = "whisper-1"
"""OpenAI's name for Whisper; here it is whatever is served."""

RETRY_S = 10.0
MAX_RETRY_S = 600.0
"""While nothing answers, the model is tried again after so long, then after twice that: memory, a disk or the Hub may
come back, and whoever asks /health/live would see nothing to restart."""

Role = Literal["main", "canary", "also", "shadow"]
"""The model itself; what takes a share of its requests; what answers those that name it; what transcribes copies."""

Load = Callable[[Settings], Model]
"""Finds, verifies and loads the version that `Settings.model` names; called on a thread."""


class Place(NamedTuple):
    """Something that a version is loaded for."""

    ref: str  # that names the version: name@alias or name@id
    role: Role


def places(settings: Settings) -> tuple[Place, ...]:
    """Return what versions are loaded for, the model first; a canary or a shadow only of an alias, which may move."""
    main = settings.model
    found = [Place(main, "main")]
    if is_alias(main):
        if settings.canary_share > 0:
            found.append(Place(beside(main, "canary"), "canary"))
        if settings.shadow_share > 0:
            found.append(Place(beside(main, "shadow"), "shadow"))
    also = [Place(beside(main, selector), "also") for selector in settings.also]
    return tuple(dict.fromkeys(place for place in [*found, *also] if place.role == "main" or place.ref != main))


def falls_into(key: str, share: float, what: str) -> bool:
    """Say whether a request with this key is of the share of something: always the same for the same key."""
    digest = hashlib.sha256(f"{what}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


class Models:
    """What is loaded; used on one running event loop. `app.state.models`."""

    def __init__(self, settings: Settings, load: Load, metrics: Metrics) -> None:
        """Nothing is loaded yet.

        Args:
            settings: name the model, and what is served beside it.
            load: called on a thread, with settings that name the version to load.
            metrics: told of batches, of versions that come and go, and of those that are refused.
        """
        self._settings, self._load, self._metrics = settings, load, metrics
        self._places = places(settings)
        self._answering: dict[Place, Loaded] = {}
        self._not_ready = NotReady(f"{settings.model} is being loaded; try again in a few seconds.")
        self._refused: dict[Place, Refused] = {}
        self._stamps: dict[Place, Stamp | None] = {}
        self._targets: dict[Place, Target | None] = {}
        self._followed: dict[Place, Target | None] = {}
        self._leaving: list[Loaded] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._tuning: asyncio.Task[None] | None = None
        self._retry_s = RETRY_S
        self._retry_at: float | None = None  # by the loop's clock
        self._looking = asyncio.Lock()
        self._then: Callable[[], None] | None = None

    # Who answers.

    @property
    def main(self) -> Loaded | NotReady:
        """The version that `Settings.model` names, or why there is none."""
        return self._answering.get(self._places[0], self._not_ready)

    @property
    def shadow(self) -> Loaded | None:
        """The version that transcribes copies, if there is one."""
        return self._of("shadow")

    @property
    def refused(self) -> list[Refused]:
        """What is named now and not served."""
        return list(self._refused.values())

    @property
    def serving(self) -> list[tuple[Place, Loaded]]:
        """What is loaded, and for what; the model first."""
        return [(place, self._answering[place]) for place in self._places if place in self._answering]

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered; copies for the shadow do not count."""
        return all(model.scheduler.is_idle for place, model in self.serving if place.role != "shadow")

    def pick(self, key: str) -> Loaded | NotReady:
        """Return who answers a request that names no version: the model, or the canary for its share of keys.

        Args:
            key: the same key gets the same version, as long as shares and versions stay.
        """
        canary = self._of("canary")
        if canary and canary.scheduler.is_running and falls_into(key, self._settings.canary_share, "canary"):
            return canary
        return self.main

    def named(self, name: str, key: str) -> Loaded | NotReady | None:
        """Return who answers a request that names its model; None if nothing of that name is loaded.

        Args:
            name: `whisper-1` or the model's own name for whatever `pick` says; an alias, name@alias, an id or name@id
                for that version, whatever its share.
            key: see `pick`.
        """
        return self.pick(key) if name in self._general_names() else self._by_name().get(name)

    def names(self) -> dict[str, Loaded]:
        """Return the names that can be asked for, and who answers to them (to a general one: the model)."""
        main = self.main
        general = dict.fromkeys(self._general_names(), main) if isinstance(main, Loaded) else {}
        return general | self._by_name()

    def why_not(self, name: str) -> str:
        """Say why nobody answers to a name, and what can be done about it."""
        for refused in self.refused:
            if name in {refused.place, refused.ref, refused.place.rpartition("@")[2]}:
                return f"{refused.ref} is not served: {refused.reason}"
        return f"There is no model {name!r} here; there are: {', '.join(self.names())}.{how_to_serve(name)}"

    def _general_names(self) -> tuple[str, ...]:
        return WHISPER_1, self._settings.model.partition("@")[0]

    def _by_name(self) -> dict[str, Loaded]:
        found: dict[str, Loaded] = {}
        for place, model in self.serving:
            if place.role == "shadow":
                continue  # which answers nobody
            name, _, selector = place.ref.partition("@")
            ours = name == self._settings.model.partition("@")[0]
            for known_as in (place.ref, *([selector] if ours else []), model.version.ref, model.version.version):
                found.setdefault(known_as, model)
        return found

    def _of(self, role: Role) -> Loaded | None:
        return next((model for place, model in self._answering.items() if place.role == role), None)

    # Who comes and goes.

    async def watch(self, then: Callable[[], None] = lambda: None) -> None:
        """Load what is named, then follow the aliases; returns if it is loaded and nothing can ever move.

        Args:
            then: called once, when the model answers or is known not to: before those beside it are loaded.
        """
        self._then = then
        await self._look_once_more()
        self._begin()
        follows = self._settings.watch_seconds > 0 and is_alias(self._settings.model)
        while follows or self._retry_at is not None:
            until_retry = (self._retry_at or 0.0) - asyncio.get_running_loop().time()
            await asyncio.sleep(self._settings.watch_seconds if follows else max(0.0, until_retry))
            await self._look_once_more()

    def _begin(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            then()

    async def _look_once_more(self) -> None:
        try:
            await self.look()
        except Exception:
            logger.exception("the registry was not followed; what is loaded goes on")

    async def look(self) -> None:
        """Look at the registry once, and follow what has moved."""
        async with self._looking:
            try:
                await asyncio.to_thread(self._read)
            except OSError as error:
                logger.warning("the registry cannot be looked at (%s); what is loaded goes on", error)
            for place in self._places:
                await self._follow(place)
                if place.role == "main":
                    self._begin()

    async def close(self) -> None:
        """Let admitted requests finish, and end all threads."""
        tasks = [*self._tasks, *([self._tuning] if self._tuning else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        schedulers = {model.scheduler for model in (*self._answering.values(), *self._leaving)}
        await asyncio.gather(*(scheduler.close() for scheduler in schedulers))

    def _read(self) -> None:
        """Find out what the places name; what has not moved is not read."""
        for place in self._places:
            now = stamp(self._settings, place.ref)
            if place not in self._stamps or self._stamps[place] != now:
                self._targets[place] = target(self._settings, place.ref)
                self._stamps[place] = now

    async def _follow(self, place: Place) -> None:
        """Have a place answered by what it names, if that is not what was tried last."""
        wanted, main = self._targets.get(place), self.main
        serves_already = wanted is not None and isinstance(main, Loaded) and wanted.ref == main.version.ref
        if serves_already and place.role in {"canary", "shadow"}:
            wanted = None  # there is nothing to compare
        if place in self._followed and self._followed[place] == wanted and not self._is_to_be_retried(place):
            return
        self._followed[place] = wanted
        self._refused.pop(place, None)
        if wanted is None and place.role == "main" and isinstance(main, Loaded):
            logger.warning("%s is gone from the registry; %s goes on", place.ref, main.version.ref)
        elif wanted is None and place.role != "main":
            self._answer(place, None)
        elif wanted is not None and (loaded := self._find(place, wanted)):
            self._answer(place, loaded)
        else:
            await self._load_for(place, wanted)

    def _is_to_be_retried(self, place: Place) -> bool:
        return (
            place.role == "main" and self._retry_at is not None and asyncio.get_running_loop().time() >= self._retry_at
        )

    def _find(self, place: Place, wanted: Target) -> Loaded | None:
        """Return the version if it is loaded; the shadow's engine steps back for others, so nobody shares it."""
        shared = [model for at, model in self.serving if "shadow" not in {at.role, place.role}]
        return next((model for model in shared if model.version.ref == wanted.ref), None)

    async def _load_for(self, place: Place, wanted: Target | None) -> None:
        settings = self._settings.model_copy(update={"model": place.ref})
        try:
            # The model is nobody's but the scheduler's: a variable here would keep it in memory after it was replaced.
            self._answer(place, self._start(place, await _on_thread(_load_and_try, self._load, settings, place.role)))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a version, the others go on
            self._refuse(place, wanted.ref if wanted else place.ref, _why(settings, error), error)
        if place in self._refused:  # beyond the block above, which holds the error and with it what was loaded
            await asyncio.to_thread(_give_memory_back)

    def _start(self, place: Place, model: Model) -> Loaded:
        if model.smoke is None:
            logger.warning("%s has no smoke clip: it was only tried on noise", model.version.ref)
        is_shadow = place.role == "shadow"
        scheduler = Scheduler(
            model.engine,
            max_batch_size=1 if is_shadow else self._settings.max_batch_size,  # calls cannot be interrupted: short ones
            max_queue_s=self._settings.max_queue_seconds,
            on_batch=partial(self._count, model.version.ref, is_shadow),
        )
        return Loaded(model.version, scheduler, model.engine.tokenizer.language_code, model.untuned)

    def _count(self, ref: str, is_shadow: bool, batch: Batch) -> None:
        self._metrics.batch(ref, batch, is_copy=is_shadow)

    def _answer(self, place: Place, model: Loaded | None) -> None:
        """Let a version answer from now on, or nobody; who answered before finishes what it has begun."""
        before = self._answering.get(place)
        if model is before:
            return
        if model is None:
            del self._answering[place]
        else:
            self._answering[place] = model
            self._metrics.swapped(place.ref, "served")
            if place.role == "main":
                self._retry_at = None
        now = f"{model.version.ref} with {model.version.engine}" if model else "nobody"
        logger.info("%s: %s for %s", "swapped" if before else "ready", now, place.ref)
        if model is not None and before is None and not model.version.context.elastic:
            logger.info(
                "every clip costs 30 s of %s, however short; where one has the training package, it teaches itself "
                "otherwise from speech without transcripts: python -m training elasticize %s --audio FOLDER",
                model.version.ref,
                model.version.ref,
            )
        self._tell()
        if place.role == "main":
            self._tune(model)
        serving = {other.scheduler for other in self._answering.values()}  # places may share one
        if before is not None and before.scheduler not in serving:
            self._leaving.append(before)
            self._in_background(self._retire(before))

    def _tell(self) -> None:
        self._metrics.serving({at.ref: (one.version.ref, one.version.engine) for at, one in self._answering.items()})

    def _refuse(self, place: Place, ref: str, why: str, error: Exception) -> None:
        self._refused[place] = Refused(place.ref, ref, why, datetime.now(UTC))
        if place.role == "main" and not isinstance(self.main, Loaded):
            self._not_ready = NotReady(why)
            is_final = isinstance(error, SmokeError | DamagedVersionError)  # its bytes will be the same
            self._retry_at = None if is_final else asyncio.get_running_loop().time() + self._retry_s
            self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)
        goes_on = self._answering.get(place)
        self._metrics.swapped(place.ref, "refused")
        logger.error(
            "refused: %s for %s: %s%s",
            ref,
            place.ref,
            why,
            f" {goes_on.version.ref} goes on." if goes_on else "",
            exc_info=None if isinstance(error, RegistryError | SmokeError) else error,
        )

    async def _retire(self, model: Loaded) -> None:
        ref = model.version.ref
        await model.holds.released()
        await model.scheduler.close()
        self._leaving.remove(model)
        del model
        await asyncio.to_thread(_give_memory_back)
        logger.info("unloaded: %s", ref)

    def _in_background(self, work: "Awaitable[None]") -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # How the model is best run on this machine.

    def _tune(self, model: Loaded | None) -> None:
        if self._tuning is not None:
            self._tuning.cancel()  # of the version before
        self._tuning = None
        if model is not None and model.untuned is not None:
            self._tuning = asyncio.create_task(self._tune_when_idle(model.scheduler, model.untuned))

    async def _tune_when_idle(self, scheduler: Scheduler, untuned: Untuned) -> None:
        """Measure when idle, and go on with an engine that is run as measured best."""
        context = scheduler.engine.context
        tuning = await tune_when_idle(scheduler, untuned.export, context.positions(CLIP_SAMPLES), untuned.cached)
        if tuning is not None and tuning != Tuning():
            try:
                scheduler.engine = await asyncio.to_thread(load_tuned, untuned, context, tuning)
            except Exception:
                logger.exception("the engine could not be loaded as tuned; the service goes on as it is")
                return
        for place, model in self._answering.items():
            if model.scheduler is scheduler:
                version = model.version.model_copy(update={"engine": scheduler.engine.description})
                self._answering[place] = replace(model, version=version, untuned=None)
        self._tell()


def _give_memory_back() -> None:
    gc.collect()  # what was answered may have left cycles that hold the engine; the collector may not come for hours
    return_freed_memory()


def _load_and_try(load: Load, settings: Settings) -> Model:
    model = load(settings)
    try_out(model)
    return model


async def _on_thread(work: Callable[[Load, Settings], Model], load: Load, settings: Settings, role: Role) -> Model:
    """Load on a thread; the shadow on one that steps back for others, as do the threads that its engine starts."""
    if role != "shadow":
        return await asyncio.to_thread(work, load, settings)
    executor = ThreadPoolExecutor(1, initializer=step_back)
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, work, load, settings)
    finally:
        executor.shutdown(wait=False)


def _why(settings: Settings, error: Exception) -> str:
    """Say what is wrong, without paths and library internals: those stay in the log."""
    match error:
        case RegistryError():
            return reason(settings, error)
        case SmokeError():
            return f"{settings.model} was tried and does not work: {error}."
        case MemoryError():
            return f"{settings.model} could not be loaded: not enough memory."
    return f"{settings.model} could not be loaded; the service's log says why."
