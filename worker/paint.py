"""The paint worker: one process for one GPU (or one CPU host), whose models stay resident.

    claims ──► intake (pool) ──► painter (one thread) ◄──► outputs (pool): composed, painted on, or encoded and stored
                    └────────────────────┴───────────────────┴──► ends (one thread): failed, canceled, given back

Engines without a device paint in a pool instead of the painter, so that the large picture of one tenant keeps no other's waiting. A fourth thread beats:
it extends leases, stores progress, hears of cancellations and watches the painter and the stages.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import cv2
import stamina
import structlog
from redis.exceptions import RedisError

from api_schemas.errors import DeadlineExceeded, EngineFailed, ErrorInfo, ModelNotFound, OutfillError, StageTooLong, Unavailable
from api_schemas.jobs import JobSpec, JobStatus, StoredOutput, utc_now
from api_schemas.models import ModelCard
from api_schemas.requests import Priority, RemoveBackgroundRequest
from core.catalogue import Catalogue
from core.jobs import Commit, JobRecords, Outcome
from core.queue import LeftToAnother, Room, words
from core.settings import Settings
from core.storage import Storage, archive_key, output_prefix
from imagefiles.sandbox import Sandbox
from worker import host_painting, intake, outputs
from worker.claims import Claims, Lease
from worker.decoding import SandboxedDecoder
from worker.engines.base import Engine, Pixels
from worker.images.checkpoint import stopped_by
from worker.images.subject import Segmenter
from worker.memory import PictureMemory, memory_of
from worker.metrics import WorkerMetrics
from worker.painter import Ends, Painter
from worker.report import Examiner
from worker.rounds import Rounds
from worker.scheduler import HEAD_START_S
from worker.turns import Running, TurnPool
from worker.wording import Wordings
from worker.work import Work

T = TypeVar("T")

_log = structlog.get_logger(__name__)
POOL = max(min(len(os.sched_getaffinity(0)) // 2, 4), 1) if sys.platform == "linux" else 2
"""Threads each for intake and for output: together one for each core, as even with a low priority more take from the engine's step. Each has one more,
for tenants that have none."""
LOOK_AHEAD = 2
"""Jobs of a model that are prepared while its slots are full; more would keep them from idle workers."""
_BEAT_S = 0.5
_PATIENCE_S = 900.0
_STALLED_EXIT, _BROKEN_EXIT = 70, 71
_BEHIND_ENGINE, _BEHIND_OTHERS = 10, 19
"""Niceness of work beside the engine: a ninth of the engine's share of a busy processor, and a third of that of the API's checks, for which callers wait;
and of a tenant's further jobs."""


class PaintWorker:
    """All threads of one worker. ``run`` returns once it was told to stop and nothing is left unfinished."""

    def __init__(
        self,
        settings: Settings,
        *,
        cards: Mapping[str, ModelCard],
        engines: Mapping[str, Engine],
        segmenters: Mapping[str, Segmenter],
        revisions: Mapping[str, str],
        edge: ModelCard | None,
        claims: Claims,
        records: JobRecords,
        storage: Storage,
        catalogue: Catalogue,
        metrics: WorkerMetrics,
        runtime: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._settings = settings
        self._cards, self._engines, self._segmenters = cards, engines, segmenters
        self._revisions, self._edge = revisions, edge  # of the segmenters; of what draws the edges of what they find
        self._claims, self._records, self._storage, self._catalogue = claims, records, storage, catalogue
        self._metrics, self._runtime = metrics, runtime
        ends = Ends(painted=self._painted, failed=self._failed, canceled=self._canceled, given_back=self._given_back)
        self._painter = Painter(engines, ends, metrics, previewed=self._previewed)
        self._works: dict[str, Work] = {}
        self._memory: PictureMemory[Work] = PictureMemory(settings.worker.pictures_bytes)
        self._lock = threading.Lock()
        self._stopping = self._abandoning = self._drained = False
        # The image and the masks of a job are decoded at once.
        self._decoding = Sandbox("worker.decoding", 2 * POOL + 2, memory=settings.limits.decoding_bytes, niceness=_BEHIND_ENGINE)
        running = Running()
        self._intake = _turn_pool("intake", POOL, running)
        # For engines without a device: like other stages, but that a model on the CPU beside them must not starve them.
        alone = all(engine.reentrant for engine in engines.values())
        self._painting = _turn_pool("painting", POOL, running, quiet=alone)
        self._outputs = _turn_pool("outputs", POOL, running)
        self._unprompted = _turn_pool("unprompted", 1, running)  # seconds for each picture, in which others' are delivered
        self._ends = quiet_pool("ends", 1)  # so that no job's end waits behind pictures for which S3 is not there

    # -- life ---------------------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin no more; what is being painted is finished. A second call gives that back too. Safe in a signal handler."""
        self._painter.drain(abandon=self._stopping)
        self._abandoning |= self._stopping
        self._stopping = True  # plain flags: an Event's lock could be held by the thread that the signal interrupts

    def run(self) -> bool:
        """Announce the worker, warm its engines up, then work until ``stop``. Raises the error of a warm-up that failed.

        ``False``: it was stopped while an engine warmed up, and that thread ends only with the process.
        """
        self._patiently(self._claims.start)  # a Redis that takes no writes yet is no reason to load the models again
        self._patiently(self._announce)  # before the minutes that compiling may take
        threads = [_started("beat", self._beat_loop), _started("painter", self._painter.run)]
        try:
            while not self._stopping and not self._painter.is_warm(wait_s=0.05):
                pass
            if not self._stopping:
                self._tell_ready()
                threads.append(_started("claims", self._claim_loop))
            while not self._stopping or self._held():
                time.sleep(0.05)
        finally:
            self._leave(threads)
        return self._painter.is_settled

    def _tell_ready(self) -> None:
        for model, found in self._painter.warm_ups.items():
            self._metrics.tell_warm_up(model, found, requested=self._settings.worker.attention)
        self._metrics.gpus.reset_peaks()
        self._metrics.ready.set(1)
        gpus = [asdict(gpu) for gpu in self._metrics.gpus.gpus()]
        _log.info("worker_ready", worker=self._claims.name, models=sorted(self._cards), gpus=gpus)

    def _leave(self, threads: Sequence[threading.Thread]) -> None:
        self._drained = True
        self._painter.stop()
        for thread in threads:
            if thread.name != "painter" or self._painter.is_settled:
                thread.join()
        for pool in (self._intake, self._painting, self._unprompted, self._outputs, self._ends):
            pool.shutdown()
        self._decoding.close()
        try:
            self._catalogue.withdraw(self._claims.name)
            self._claims.stop()
        except RedisError as error:  # what it announced lapses, as a killed worker's does
            _log.warning("withdrawal_failed", worker=self._claims.name, error=words(error))
        _log.info("worker_stopped", worker=self._claims.name)

    def _held(self) -> int:
        with self._lock:
            return len(self._works)

    # -- claims -------------------------------------------------------------------------------------------------------------------

    def _claim_loop(self) -> None:
        while not self._stopping:
            try:
                lease = self._take(self._room()) or self._take(self._room_for_guests())
            except LeftToAnother:
                time.sleep(self._settings.worker.poll_s / 10)
                continue
            except RedisError as error:
                _log.warning("claim_failed", error=words(error))
                time.sleep(1.0)
                continue
            if lease is None:
                time.sleep(self._settings.worker.poll_s)
            elif lease.attempt == 1:
                work = self._take_in(lease)
                self._begin(self._memory.enter(work, work.spec.tenant, memory_of(work.spec)))
            else:
                self._take_in_alone(lease)

    def _take_in_alone(self, lease: Lease) -> None:
        """A job that was begun before may be what killed its worker: it gets this one for itself, so that it takes no other with it."""
        work = self._take_in(lease)
        while self._held() > 1 and not self._stopping and not work.overdue and not work.canceled.is_set():
            time.sleep(self._settings.worker.poll_s)
        self._begin(self._memory.enter(work, work.spec.tenant, memory_of(work.spec)))
        while self._held():
            time.sleep(self._settings.worker.poll_s)

    def _take(self, room: Room) -> Lease | None:
        """The next job for which there is room."""
        models = list(room.by_model)
        return self._claims.take(models, room=room, spare_bulk=self._full_of_bulk()) if models else None

    def _begin(self, works: Sequence[Work]) -> None:
        """Prepare jobs for whose pictures there is memory."""
        for work in works:
            self._intake.submit(work.spec.tenant, work.key, partial(self._guarded, self._prepare, work))

    def _full_of_bulk(self) -> bool:
        """Whether bulk jobs have all slots but one, which is kept for the others: they would wait for the end of a bulk job."""
        with self._lock:
            bulk = sum(work.spec.request.priority is Priority.BULK for work in self._works.values())
        return bulk >= max(self._settings.worker.slots - 1, 1)

    def _room(self) -> Room:
        """What may be claimed, with the models for which there is room."""
        with self._lock:
            held = Counter(work.spec.model for work in self._works.values())
        left = self._settings.worker.slots - held.total()
        rooms = {name: min(self._most(name) - held[name], left) for name in self._cards}
        return Room(left, {name: room for name, room in rooms.items() if room > 0})

    def _room_for_guests(self) -> Room:
        """The same where there is none: one place more, for a job of a tenant that has none here."""
        with self._lock:
            works = [(work.spec.model, work.spec.tenant) for work in self._works.values()]
        held, tenants, slots = Counter(model for model, _ in works), frozenset(tenant for _, tenant in works), self._settings.worker.slots
        if len(works) > slots or not works:
            return Room()
        full = [name for name in self._cards if len(works) == slots or held[name] == self._most(name)]
        return Room(1, dict.fromkeys(full, 1), tenants)

    def _most(self, model: str) -> int:
        """Jobs of a model that are held at once."""
        return LOOK_AHEAD + (self._engines[model].max_rows if model in self._engines else POOL)

    def _take_in(self, lease: Lease) -> Work:
        work = Work(lease)
        with self._lock:
            self._works[work.key] = work
        if lease.attempt == 1:
            waited = (utc_now() - lease.spec.created_at).total_seconds()
            self._metrics.queue_wait.labels(lease.spec.model, lease.spec.request.priority).observe(max(waited, 0.0))
        self._metrics.in_flight.set(self._held())
        return work

    # -- intake -------------------------------------------------------------------------------------------------------------------

    def _prepare(self, work: Work) -> None:
        if self._stopping:
            self._given_back(work)
            return
        self._check_wanted(work)
        work.lap()
        inputs = work.spec.inputs

        def fetch(name: str) -> bytes:
            return self._patiently(lambda: self._storage.get(inputs[name].key), work)

        engine = self._engines.get(work.spec.model)
        wordings = Wordings.of(work.spec.request, engine.read) if engine else Wordings()
        limits, segmenter = self._settings.limits, self._segmenter_of(work.spec)
        decoder = SandboxedDecoder(self._decoding, limits, lambda: self._check_going_on(work), work.waiting)
        card = self._cards[work.spec.model]
        plan = intake.prepare(work.spec, card, fetch, segmenter, max_pixels=limits.max_image_pixels, decoder=decoder)
        work.rounds = Rounds(work.spec, plan, Examiner(segmenter, self._settings.quality), wordings)
        self._make_ready(work)
        self._lap(work, "intake")
        if work.requests:
            self._paint(work)
        else:
            self._outputs.submit(work.spec.tenant, work.key, partial(self._guarded, self._compose, work))

    def _segmenter_of(self, spec: JobSpec) -> Segmenter:
        """What finds the product of a job, in its input and in its outputs. Raises ``ModelNotFound`` where this worker does not have it."""
        named: str | None = (
            spec.model if isinstance(spec.request, RemoveBackgroundRequest) else getattr(spec.request, "subject_model", None)
        )
        name = named or self._settings.models.subject_model
        if name not in self._segmenters:
            raise ModelNotFound(
                f"the worker that took the job does not have {name}, and each that serves {spec.model} needs it", field="subject_model"
            )
        return self._segmenters[name]

    # -- painting -----------------------------------------------------------------------------------------------------------------

    def _make_ready(self, work: Work) -> None:
        """Do here what an engine with a device does before it: its thread makes no tensors of pictures while others are painted."""
        engine = self._engines.get(work.spec.model)
        if engine is None or engine.reentrant:
            return
        try:
            work.prepared = tuple(engine.prepare(request) for request in work.requests)
        except OutfillError:
            raise
        except Exception as error:
            _log.exception("prepare_failed", job=work.spec.id, model=work.spec.model)
            raise EngineFailed("the model could not take the picture") from error

    def _paint(self, work: Work) -> None:
        if not self._engines[work.spec.model].reentrant:
            self._painter.inbox.put(work)
            return
        rank = -round(HEAD_START_S[work.spec.request.priority])
        self._painting.submit(work.spec.tenant, work.key, partial(self._guarded, self._paint_here, work), rank=rank)

    def _paint_here(self, work: Work) -> None:
        if self._abandoning or (self._stopping and not work.begun):
            self._given_back(work)
            return
        host_painting.paint(self._engines[work.spec.model], work, self._metrics, lambda: self._check_going_on(work))
        self._painted(work)

    # -- outputs ------------------------------------------------------------------------------------------------------------------

    def _painted(self, work: Work) -> None:
        self._lap(work, "paint")
        self._outputs.submit(work.spec.tenant, work.key, partial(self._guarded, self._compose, work))

    def _compose(self, work: Work) -> None:
        """Take in what was painted; paint on, or deliver."""
        self._check_wanted(work)
        if work.rounds is None:
            raise ValueError("a job is planned before it is composed")
        work.rounds.take(work.take_painted())
        self._make_ready(work)
        self._lap(work, "compose")
        if work.requests:
            self._paint(work)
        elif work.rounds.gives_way:
            self._unprompted.submit(work.spec.tenant, work.key, partial(self._guarded, self._go_on_without_prompt, work))
        else:
            self._deliver(work)

    def _go_on_without_prompt(self, work: Work) -> None:
        """Do one picture of which all attempts failed; another job's comes before the next."""
        self._check_wanted(work)
        if work.rounds is None:
            raise ValueError("a job is planned before it is composed")
        work.rounds.go_on_without_prompt()
        self._lap(work, "compose")
        if work.rounds.gives_way:
            self._unprompted.submit(work.spec.tenant, work.key, partial(self._guarded, self._go_on_without_prompt, work))
        else:
            self._outputs.submit(work.spec.tenant, work.key, partial(self._guarded, self._deliver, work))

    def _deliver(self, work: Work) -> None:
        self._check_wanted(work)
        rendered = work.rounds.rendered if work.rounds else ()
        stored = self._patiently(lambda: outputs.store(self._storage, work.spec, work.lease.execution.id, rendered), work)
        self._lap(work, "store")
        self._check_wanted(work)
        runtime = {**self._runtime[work.spec.model], **self._weights(work.spec), "worker": self._claims.name}
        if self._end(work, Outcome(JobStatus.SUCCEEDED, outputs=stored, runtime=runtime, steps=work.progress()[1])):
            self._count(work, stored)

    def _weights(self, spec: JobSpec) -> dict[str, str]:
        """What pins the weights that a job was done with: this worker's, which may not be those of which the API knew when it was accepted."""
        told = {"model_revision": self._cards[spec.model].revision}
        subject_model: str | None = getattr(spec.request, "subject_model", None)
        if subject_model is not None:
            told["subject_model_revision"] = self._revisions[subject_model]
        finds = spec.request.product_mask is None if isinstance(spec.request, RemoveBackgroundRequest) else subject_model is not None
        if finds and self._edge is not None:
            told |= {"edge_model": self._edge.id, "edge_model_revision": self._edge.revision}
        return told

    def _count(self, work: Work, stored: Sequence[StoredOutput]) -> None:
        operation, model = work.spec.request.operation, work.spec.model
        self._metrics.images.labels(operation, model).inc(len(stored))
        self._metrics.pixels.labels(operation, model).inc(sum(output.width * output.height for output in stored))
        for output in stored:
            report = output.report
            self._metrics.verdicts.labels(operation, model, report.verdict.level).inc()
            self._metrics.retries.labels(operation, model).inc(report.attempts - 1)
            painter = report.painted_by or model
            if painter != model:
                self._metrics.unprompted.labels(operation, model).inc()
            for histogram, value in (
                (self._metrics.seam, report.seam),
                (self._metrics.colour_shift, report.colour_shift),
                (self._metrics.rim, report.rim),
                (self._metrics.border_step, report.step),
                (self._metrics.model_error, report.model_error.corrected if report.model_error else None),
                (self._metrics.growth, report.subject.growth if report.subject else None),
                (self._metrics.confidence, report.subject.confidence if report.subject else None),
            ):
                if value is not None:
                    histogram.labels(operation, painter).observe(value)

    def _previewed(self, work: Work, pixels: Pixels) -> None:
        work.preview_under_way = True
        self._outputs.submit(work.spec.tenant, work.key, partial(self._store_preview, work, pixels))

    def _store_preview(self, work: Work, pixels: Pixels) -> None:
        """A preview that cannot be stored is the last of its job, and no harm to it."""
        try:
            with work.storing_preview:
                if not work.ending:
                    work.preview_key = outputs.store_preview(self._storage, work.spec, work.lease.execution.id, pixels)
                    work.previews += 1
        except Exception:
            work.wants_previews = False
            _log.warning("preview_not_stored", job=work.spec.id, exc_info=True)
        finally:
            work.preview_under_way = False

    def _check_wanted(self, work: Work) -> None:
        """Raise if the owner does not want the job any more, or not so late."""
        if work.canceled.is_set():
            raise _CanceledError
        if work.overdue:
            raise DeadlineExceeded("the deadline passed while the job was being worked on")

    def _check_going_on(self, work: Work) -> None:
        """Raise if it is not wanted, or its stage takes too long."""
        self._check_wanted(work)
        if work.over_s:
            raise StageTooLong(f"preparing or composing the picture took longer than {self._settings.worker.stage_s:g} s")

    def _failed(self, work: Work, error: OutfillError) -> None:
        self._ends.submit(self._guarded, lambda work: self._end(work, _failure(error)), work)

    def _canceled(self, work: Work) -> None:
        self._ends.submit(self._guarded, lambda work: self._end(work, Outcome(JobStatus.CANCELED)), work)

    def _given_back(self, work: Work) -> None:
        self._ends.submit(self._guarded, self._hand_back, work)

    def _hand_back(self, work: Work) -> None:
        work.end()
        if self._patiently(lambda: self._claims.hand_back(work.lease)):
            self._metrics.handed_back.inc()
            self._drop_preview(work)
            self._forget(work)
        else:  # its owner canceled it meanwhile, or the lease is lost: either way this says so
            self._end(work, Outcome(JobStatus.CANCELED))

    def _end(self, work: Work, outcome: Outcome) -> bool:
        """Archive how the job ends, then commit it. True: it succeeded. Where its lease was lost or it was canceled, what this execution made is
        dropped.
        """
        work.end()
        commit = self._commit(work, outcome)
        if commit == "canceled":
            outcome = Outcome(JobStatus.CANCELED)
            commit = self._commit(work, outcome)
        _log.info("job_ended", job=work.spec.id, status=outcome.status, commit=commit, error=outcome.error and outcome.error.code)
        if commit == "lost":
            self._claims.abandon(work.lease)
            self._metrics.fence_rejected.inc()
            self._drop_objects(work, archive=True)
        else:
            request = work.spec.request
            self._metrics.finished.labels(request.operation, work.spec.model, outcome.status).inc()
            took = (utc_now() - work.spec.created_at).total_seconds()
            self._metrics.job.labels(request.operation, request.priority, outcome.status).observe(max(took, 0.0))
            if outcome.error is not None:
                self._metrics.failures.labels(outcome.error.code).inc()
            if commit == "committed" and not outcome.outputs:
                self._drop_objects(work, archive=False)
            else:
                self._drop_preview(work)
            self._patiently(lambda: self._claims.settle(work.lease))
        self._forget(work)
        return commit != "lost" and outcome.status is JobStatus.SUCCEEDED

    def _commit(self, work: Work, outcome: Outcome) -> Commit:
        """The archive first, so that whatever is committed outlives Redis. A job without outputs does not wait for S3: the steward archives it."""
        archived = True
        try:
            self._patiently(lambda: self._archive(work, outcome)) if outcome.outputs else self._archive(work, outcome)
        except Unavailable:
            if outcome.outputs:
                raise
            archived = False
        commit = self._patiently(lambda: self._records.commit(work.spec, work.lease.member, outcome))
        if not archived:
            self._patiently(lambda: self._records.expect_archive(work.spec.id))
        return commit

    def _archive(self, work: Work, outcome: Outcome) -> None:
        record = self._patiently(lambda: self._records.archive(work.spec.id, outcome))
        if record is not None:  # else there is nothing to commit either
            self._storage.put(self._archive_key(work), record, "application/json")

    def _archive_key(self, work: Work) -> str:
        return archive_key(work.spec.tenant, work.spec.id, work.lease.execution.id)

    def _drop_objects(self, work: Work, *, archive: bool) -> None:
        """Nobody will ever see them; what is missed here is the steward's."""
        prefix = output_prefix(work.spec.tenant, work.spec.id, work.lease.execution.id)
        try:
            self._storage.delete([*self._storage.keys(prefix), *([self._archive_key(work)] if archive else [])])
        except Unavailable:
            self._patiently(lambda: self._records.expect_leftovers(work.spec))

    def _drop_preview(self, work: Work) -> None:
        if work.preview_key is None:
            return
        try:
            self._storage.delete([work.preview_key])
        except Unavailable:
            self._patiently(lambda: self._records.expect_leftovers(work.spec))

    def _forget(self, work: Work) -> None:
        with self._lock:
            self._works.pop(work.key, None)
        self._begin(self._memory.leave(work))
        self._metrics.in_flight.set(self._held())

    # -- in every pool thread -----------------------------------------------------------------------------------------------------

    def _guarded(self, stage: Callable[[Work], object], work: Work) -> None:
        """Run one stage of one job; whatever it raises ends that job and nothing else."""
        try:
            with work.computing(self._settings.worker.stage_s), stopped_by(lambda: self._check_going_on(work)):
                stage(work)
        except _CanceledError:
            self._canceled(work)
        except (Unavailable, RedisError) as error:
            self._let_lapse(work, error)
        except Exception as error:
            if work.ending:
                self._let_lapse(work, error)
            elif isinstance(error, OutfillError):
                self._failed(work, error)
            else:
                _log.exception("stage_failed", job=work.spec.id)
                self._failed(work, OutfillError("the job failed for a reason that is ours; it was logged"))

    def _let_lapse(self, work: Work, error: Exception) -> None:
        """Stop beating: the steward clears the lease away, or gives the job to another execution if it has not ended.

        That is for when Redis or S3 stayed away for too long, and for faults of ours after the job's end was decided.
        """
        _log.error("job_let_lapse", job=work.spec.id, exc_info=error)
        self._claims.abandon(work.lease)
        self._forget(work)

    def _patiently(self, call: Callable[[], T], work: Work | None = None) -> T:
        """Retry while Redis or S3 are away, as long as anyone would wait for them; for ``work``, as long as it is wanted."""
        retries = stamina.retry_context((Unavailable, RedisError), attempts=None, timeout=_PATIENCE_S, wait_initial=0.1, wait_max=5.0)
        with work.waiting() if work is not None else nullcontext():
            for attempt in retries:
                with attempt:
                    if work is not None:
                        self._check_wanted(work)
                    return call()
        raise AssertionError("stamina raises the last error itself")

    def _lap(self, work: Work, stage: str) -> None:
        self._metrics.stage.labels(stage, work.spec.request.operation).observe(work.lap())

    # -- beat ---------------------------------------------------------------------------------------------------------------------

    def _beat_loop(self) -> None:
        next_lease = next_announce = 0.0
        while not self._drained:
            time.sleep(_BEAT_S)
            now = time.monotonic()
            try:
                if now >= next_lease:
                    self._claims.beat()
                    next_lease = now + self._settings.worker.lease_s / 4
                if now >= next_announce:
                    self._announce()
                    next_announce = now + self._settings.worker.lease_s / 2
                self._tell_progress()
            except RedisError as error:
                _log.warning("beat_failed", error=words(error))
            # Those that wait for memory: preparing them is what says that they are over.
            self._begin(self._memory.give_up(lambda work: self._stopping or work.overdue or work.canceled.is_set()))
            self._watch()

    def _watch(self) -> None:
        """End the process where nothing can interrupt a call that hangs: the leases lapse and other workers go on."""
        with self._lock:
            over = max((work.over_s for work in self._works.values()), default=0.0)
        stalled = {"painter": self._painter.stalled_s(), "stage": over}
        if max(stalled.values()) > self._settings.worker.stall_s:
            _log.critical("worker_stalled", **stalled)
            os._exit(_STALLED_EXIT)

    def _announce(self) -> None:
        self._catalogue.announce(self._claims.name, list(self._cards.values()), self._settings.worker.lease_s * 2)

    def _tell_progress(self) -> None:
        with self._lock:
            works = list(self._works.values())
        for work in works:
            step, steps = work.progress()
            beat = self._records.beat(work.spec.id, work.lease.member, step, steps, preview=work.preview_key, number=work.previews)
            # Lost: another execution has it, or it is over. What has begun to end is lost by its own commit.
            if beat == "cancel" or (beat == "lost" and not work.ending):
                work.canceled.set()


def _turn_pool(name: str, threads: int, running: Running, *, quiet: bool = True) -> TurnPool:
    """Threads in which tenants take turns. A tenant's only job there goes before others' further ones."""
    if not quiet:
        pool = ThreadPoolExecutor(threads + 1, name)
        return TurnPool(threads, pool, pool, running)
    return TurnPool(threads, quiet_pool(name, threads + 1), quiet_pool(f"{name}-further", threads + 1, further=True), running)


def quiet_pool(name: str, size: int, *, further: bool = False) -> ThreadPoolExecutor:
    """Threads for work beside the engine: they run in the time that its step leaves idle, and bring no threads of OpenCV's along."""
    cv2.setNumThreads(1)
    return ThreadPoolExecutor(size, name, initializer=partial(_step_back, further=further))


def _step_back(*, further: bool) -> None:
    """Put this thread behind the engine's, ``further``: behind those too. Only on Linux does a thread have a niceness of its own; without it all is as it was."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BEHIND_OTHERS if further else _BEHIND_ENGINE)


class _CanceledError(Exception):
    """The owner asked to cancel."""


def _started(name: str, loop: Callable[[], None]) -> threading.Thread:
    # A daemon, as a compiler cannot be told to end; all threads but that of a warm-up are waited for.
    thread = threading.Thread(target=_or_exit, args=(loop,), name=name, daemon=True)
    thread.start()
    return thread


def _or_exit(loop: Callable[[], None]) -> None:
    """Run a loop of the worker. If it breaks, the process ends: a worker without one of its threads would hold jobs for ever."""
    try:
        loop()
    except BaseException:
        _log.critical("thread_broke", thread=threading.current_thread().name, exc_info=True)
        os._exit(_BROKEN_EXIT)


def _failure(error: OutfillError) -> Outcome:
    return Outcome(JobStatus.FAILED, error=ErrorInfo.of(error))
