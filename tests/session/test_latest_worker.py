import gc
import threading
import weakref

import pytest
from session_fakes import Pump

from napari_segany.session.worker import CancelledError, LatestWorker, Ticket


@pytest.fixture
def pump() -> Pump:
    return Pump()


@pytest.fixture
def worker(pump: Pump):
    worker = LatestWorker(post=pump.post)
    yield worker
    assert worker.close()


def test_only_the_newest_answer_is_delivered(worker: LatestWorker, pump: Pump) -> None:
    gate, started, answers = threading.Event(), threading.Event(), []

    def slow(_: Ticket) -> str:
        started.set()
        gate.wait(5)
        return "old"

    worker.submit(slow, done=answers.append, failed=answers.append)
    assert started.wait(5)
    worker.submit(lambda _: "skipped", done=answers.append, failed=answers.append)
    worker.submit(lambda _: "new", done=answers.append, failed=answers.append)
    gate.set()
    pump.until(lambda: not worker.is_busy)
    pump.drain()
    assert answers == ["new"]


def test_an_answer_posted_but_not_delivered_is_dropped_by_a_newer_request(
    worker: LatestWorker, pump: Pump
) -> None:
    answers, posted = [], threading.Event()
    worker.submit(lambda _: 1, done=answers.append, failed=answers.append)
    worker.submit(lambda _: posted.set(), done=lambda _: None, failed=answers.append)
    assert posted.wait(5)
    pump.drain()
    assert answers == []


def test_errors_arrive_and_the_thread_lives_on(worker: LatestWorker, pump: Pump) -> None:
    errors, answers = [], []

    def broken(_: Ticket) -> None:
        raise ZeroDivisionError("model broke")

    worker.submit(broken, done=answers.append, failed=errors.append)
    pump.until(lambda: bool(errors))
    assert isinstance(errors[0], ZeroDivisionError) and not worker.is_busy
    worker.submit(lambda _: 2, done=answers.append, failed=errors.append)
    pump.until(lambda: answers == [2])


def test_cancel_stops_a_task_at_its_next_check(worker: LatestWorker, pump: Pump) -> None:
    entered, gate, left, answers = threading.Event(), threading.Event(), threading.Event(), []

    def task(ticket: Ticket) -> None:
        entered.set()
        gate.wait(5)
        try:
            ticket.check()
        finally:
            left.set()
        answers.append("went on")

    worker.submit(task, done=answers.append, failed=answers.append)
    assert entered.wait(5)
    worker.cancel()
    gate.set()
    assert left.wait(5)
    pump.drain()
    assert answers == [] and not worker.is_busy


def test_close_joins_and_refuses_more(pump: Pump) -> None:
    worker = LatestWorker(post=pump.post, name="segany-to-close")
    assert worker.close()
    assert "segany-to-close" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(CancelledError, match="closed"):
        worker.submit(lambda _: 1, done=print, failed=print)


def test_the_thread_keeps_nothing_of_a_served_request(worker: LatestWorker, pump: Pump) -> None:
    class Model:
        pass

    model, answers = Model(), []
    gone = weakref.ref(model)
    worker.submit(lambda _, m=model: id(m), done=answers.append, failed=answers.append)
    del model
    pump.until(lambda: len(answers) == 1)
    gc.collect()
    assert gone() is None
