"""Asks all controllers how far a write has come from them."""

import asyncio
import time

import msgspec

from certs.runtime.identity import LeafIdentity
from federation.agent.directory import DirectoryStore
from federation.api.messages import NamedController
from federation.api.reading import CatalogReader
from federation.api.tracing import ControllerTrace, TraceAnswer, TraceQuestion, state_of
from federation.app.asking import CONTROLLERS_ASKED_MAX, ask
from federation.app.traces import Tracer
from federation.kernel.codec import MALFORMED
from federation.kernel.errors import InvalidInputError, IsthmusError

_question_decoder = msgspec.msgpack.Decoder(TraceQuestion)
_answer_decoder = msgspec.msgpack.Decoder(TraceAnswer)


class TraceDesk:
    """Answers for this controller, and asks the others of the directory."""

    def __init__(
        self,
        name: str,
        catalog: CatalogReader,
        leaf: LeafIdentity,
        directory: DirectoryStore,
    ) -> None:
        self.tracer = Tracer(clock=time.monotonic, unix_ms=lambda: time.time_ns() // 1_000_000)
        self._name = name
        self._catalog = catalog
        self._leaf = leaf
        self._directory = directory

    def answer(self, question: bytes) -> bytes:
        """Answer another controller; raises InvalidInputError for what is no question."""
        try:
            revision = _question_decoder.decode(question).revision
        except MALFORMED as error:
            raise InvalidInputError(f"trace question: {error}") from error
        return msgspec.msgpack.encode(self._own(revision))

    async def gather(self, revision: int) -> tuple[ControllerTrace, ...]:
        """Return what each controller that serves anybody says, by name."""
        serving = [one for one in self._directory.current.controllers if one.spec.control]
        async with asyncio.TaskGroup() as tasks:
            asked = [
                tasks.create_task(self._ask(one, revision), name=f"trace/{one.name}")
                for one in sorted(serving, key=lambda one: one.name)[:CONTROLLERS_ASKED_MAX]
            ]
        return tuple(task.result() for task in asked)

    def _own(self, revision: int) -> TraceAnswer:
        return TraceAnswer(
            controller=self._name, revision=self._catalog.revision, trace=self.tracer.trace(revision)
        )

    async def _ask(self, controller: NamedController, revision: int) -> ControllerTrace:
        try:
            answer = (
                self._own(revision)
                if controller.name == self._name
                else await self._call(controller, revision)
            )
        except IsthmusError as error:
            return ControllerTrace(controller=controller.name, state="silent", error=error.message)
        return ControllerTrace(
            controller=controller.name, state=state_of(revision, answer), trace=answer.trace
        )

    async def _call(self, controller: NamedController, revision: int) -> TraceAnswer:
        raw = await ask(
            controller,
            "Trace",
            msgspec.msgpack.encode(TraceQuestion(revision=revision)),
            leaf=self._leaf,
            directory=self._directory,
        )
        try:
            return _answer_decoder.decode(raw)
        except MALFORMED as error:
            raise InvalidInputError(
                f"trace of {controller.name}: the answer cannot be read: {error}"
            ) from error
