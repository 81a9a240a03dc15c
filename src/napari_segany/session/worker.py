"""One background thread that works on the newest request; answers hop back through an injected `post`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from napari_segany.core.errors import SegAnyError

_logger = logging.getLogger(__name__)

Post: TypeAlias = Callable[[Callable[[], None]], None]
"""Runs a callable on the thread that owns the session; called from the worker's thread."""


class CancelledError(SegAnyError, RuntimeError):
    """Raised inside a task that is no longer wanted."""


class Ticket:
    """Handed to a task, which asks it now and then whether the answer is still wanted."""

    def __init__(self, post: Post) -> None:
        self._cancelled = threading.Event()
        self._post = post

    @property
    def is_cancelled(self) -> bool:
        """True as soon as nobody waits for the answer."""
        return self._cancelled.is_set()

    def check(self) -> None:
        """Leave the task if it was cancelled."""
        if self.is_cancelled:
            raise CancelledError("the request was cancelled or replaced by a newer one")

    def tell(self, report: Callable[[], None]) -> None:
        """Run a report on the owner's thread, unless the task is cancelled by then."""
        self._post(lambda: None if self.is_cancelled else report())

    def tell_anyway(self, report: Callable[[], None]) -> None:
        """Run a report on the owner's thread even if nobody waits for the answer any more."""
        self._post(report)

    def cancel(self) -> None:
        """Mark the answer as unwanted."""
        self._cancelled.set()


# a task's result goes only into its own `done`, which `submit` types; the queue in between holds any of them
Task: TypeAlias = Callable[[Ticket], Any]


@dataclass(frozen=True, slots=True)
class _Request:
    task: Task
    ticket: Ticket
    done: Callable[[Any], None]  # Any: see Task
    failed: Callable[[Exception], None]


class _Slot:
    """What the thread and its owner share, at most one request; the thread does not hold its owner."""

    def __init__(self, post: Post) -> None:
        self.post = post
        self.wake = threading.Condition()
        self.waiting: _Request | None = None
        self.is_closed = False

    def put(self, request: _Request) -> None:
        with self.wake:
            self.waiting = request
            self.wake.notify()

    def take(self) -> _Request | None:
        """Wait for the next request; None when closed."""
        with self.wake:
            self.wake.wait_for(lambda: self.is_closed or self.waiting is not None)
            request, self.waiting = self.waiting, None
            return None if self.is_closed else request

    def close(self) -> None:
        with self.wake:
            self.is_closed, self.waiting = True, None
            self.wake.notify()


def _work(slot: _Slot) -> None:
    """Serve requests until the slot closes; nothing of a served request stays referenced."""
    while (request := slot.take()) is not None:
        _serve(request, slot.post)
        del request


def _serve(request: _Request, post: Post) -> None:
    """Run one task and post its answer, or its error."""
    ticket = request.ticket
    try:
        ticket.check()
        answer = request.task(ticket)
    except CancelledError:
        return
    except Exception as error:  # whatever a model or lazy array raises goes to the owner
        _logger.debug("background task failed", exc_info=True)
        failed, problem = request.failed, error
        ticket.tell(lambda: failed(problem))
        return
    done = request.done
    ticket.tell(lambda: done(answer))


class Worker(Protocol):
    """Runs one task at a time for a session."""

    @property
    def is_busy(self) -> bool:
        """True while an answer is awaited."""

    def submit(
        self, task: Task, *, done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> Ticket:
        """Run `task` in place of whatever was asked before."""

    def cancel(self) -> None:
        """Drop the awaited answer."""

    def close(self, *, timeout: float = 5.0) -> bool:
        """End the work, and say whether it ended."""


class LatestWorker:
    """Runs the newest task; older ones are cancelled, and their answers never delivered.

    Parameters
    ----------
    post
        Brings a callable to the owner's thread: a queued Qt signal in a window, a deque in a test.
    name
        Of the thread, for debuggers.
    """

    def __init__(self, *, post: Post, name: str = "segany-worker") -> None:
        self._slot = _Slot(post)
        self._ticket: Ticket | None = None
        self._thread = threading.Thread(target=_work, args=(self._slot,), name=name, daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """True while an answer is awaited."""
        return self._ticket is not None

    def submit(
        self, task: Task, *, done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> Ticket:
        """Run `task` in place of whatever was asked before; one callback follows, unless cancelled."""
        if self._slot.is_closed:
            raise CancelledError("the worker is closed; make a new session")
        self.cancel()
        ticket = self._ticket = Ticket(self._slot.post)
        self._slot.put(_Request(task, ticket, self._finishing(ticket, done), self._finishing(ticket, failed)))
        return ticket

    def cancel(self) -> None:
        """Drop the awaited answer; a running task stops at its next check."""
        if self._ticket is not None:
            self._ticket.cancel()
            self._ticket = None

    def close(self, *, timeout: float = 5.0) -> bool:
        """Cancel, end the thread, and say whether it ended within `timeout` seconds."""
        self.cancel()
        self._slot.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _finishing(self, ticket: Ticket, callback: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return the callback, preceded by forgetting the ticket."""

        def finish(answer: object) -> None:
            if self._ticket is ticket:
                self._ticket = None
            callback(answer)

        return finish


class InlineWorker:
    """Runs each task at once, on the caller's thread: for notebooks, replay and tests."""

    is_busy = False

    def submit(
        self, task: Task, *, done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> Ticket:
        """Run `task` and call back before returning."""
        ticket = Ticket(lambda report: report())
        _serve(_Request(task, ticket, done, failed), lambda report: report())
        return ticket

    def cancel(self) -> None:
        """Do nothing: nothing is ever waiting."""

    def close(self, *, timeout: float = 5.0) -> bool:
        """Do nothing, and say that no thread is left."""
        return True
