"""What the page asks the studio: what comes next, how long a sheet would take, how far several batches are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from studio import GenerationRequest, Settings, Studio
from studio.errors import ModelNotFound
from studio.schemas import BatchRequest, JobStatus, batch_view
from tests.fakes import load_sine
from tests.serving import load_slow


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    """One without a worker: what goes in, waits."""
    made = Studio(Settings(data_dir=tmp_path), load_sine)
    made.start(work=False)
    yield made
    made.stop()


def ask(studio: Studio, prompt: str, **fields: object) -> str:
    return studio.submit(GenerationRequest.model_validate({"prompt": prompt, **fields})).job_id


def test_waiting_jobs_come_in_the_order_in_which_they_will_start(studio: Studio) -> None:
    last = ask(studio, "not urgent", priority=-10)
    first, second, third = (ask(studio, f"song {number}") for number in range(3))
    urgent = ask(studio, "urgent", priority=10)
    blocked = ask(studio, "after all", after=[first], priority=10)
    page = studio.waiting()
    assert [job.job_id for job in page.jobs] == [urgent, first, second, third, last, blocked]
    assert [job.queue_position for job in page.jobs] == [1, 2, 3, 4, 5, 6]
    assert page.total == 6
    studio.to_front(third)
    assert studio.waiting().jobs[0].job_id == third


def test_waiting_jobs_have_pages_and_can_be_searched(studio: Studio) -> None:
    jobs = [ask(studio, f"song {number}") for number in range(5)]
    blocked = [ask(studio, f"encore {number}", after=[jobs[0]]) for number in range(3)]
    pages = [studio.waiting(number, 3) for number in (1, 2, 3, 4)]
    assert [job.job_id for page in pages for job in page.jobs] == jobs + blocked
    assert {page.total for page in pages} == {8}
    found = studio.waiting(1, 2, "Encore")
    assert ([job.job_id for job in found.jobs], found.total) == (blocked[:2], 3)


def test_the_pace_is_not_learned_from_pieces_that_were_partly_there(tmp_path: Path) -> None:
    with Studio(Settings(data_dir=tmp_path), load_sine) as studio:
        first = ask(studio, "a beginning", duration=2.0)
        assert [job.status for job in studio.watch(first, 60)][-1] is JobStatus.COMPLETED
        before = studio.forecast([GenerationRequest(prompt="sad piano")])
        longer = ask(studio, "a long one", duration=30.0, continue_from=first)
        assert [job.status for job in studio.watch(longer, 60)][-1] is JobStatus.COMPLETED
        assert studio.forecast([GenerationRequest(prompt="sad piano")]) == before


def test_a_forecast_counts_the_queue_and_its_own_work(studio: Studio) -> None:
    request = GenerationRequest(prompt="sad piano", duration=4.0)
    alone = studio.forecast([request])
    assert studio.forecast([request] * 8) > alone > 0
    for number in range(20):
        ask(studio, f"song {number}", duration=8.0)
    assert studio.forecast([request]) > 10 * alone
    assert studio.waiting().total == 20


def test_a_forecast_of_a_model_that_is_not_there_says_so(studio: Studio) -> None:
    with pytest.raises(ModelNotFound):
        studio.forecast([GenerationRequest(prompt="sad piano", model="nonesuch")])


def test_several_batches_are_looked_up_at_once_in_the_order_asked_for(studio: Studio) -> None:
    requests = [GenerationRequest(prompt=f"song {number}") for number in range(3)]
    batches = [studio.submit_batch(BatchRequest(requests=requests)) for _ in range(2)]
    newest_first = [batch.batch_id for batch in reversed(batches)]
    studio.cancel_batch(newest_first[0])
    found = studio.batch_jobs([*newest_first, "batch_that_is_gone"])
    assert list(found) == newest_first
    assert [job.job_id for job in found[newest_first[1]]] == batches[0].job_ids
    assert {job.status for job in found[newest_first[0]]} == {JobStatus.CANCELLED}
    sketch = studio.batch_jobs(newest_first, sketched=True)[newest_first[1]]
    assert [job.queue_position for job in sketch] == [None, None, 3]
    whole = studio.batch(newest_first[1])
    assert batch_view("", sketch).estimated_time_seconds == whole.estimated_time_seconds == pytest.approx(24.0)
    studio.pause()
    sketch = studio.batch_jobs(newest_first, sketched=True)[newest_first[1]]
    assert batch_view("", sketch).estimated_time_seconds is studio.batch(newest_first[1]).estimated_time_seconds is None


def test_a_batch_whose_last_job_is_being_made_says_how_long_it_takes(tmp_path: Path) -> None:
    with Studio(Settings(data_dir=tmp_path), load_slow) as studio:
        batch = studio.submit_batch(BatchRequest(requests=[GenerationRequest(prompt="sad piano", duration=30.0)]))
        (job_id,) = batch.job_ids
        next(job for job in studio.watch(job_id, timeout_s=60) if job.status is JobStatus.PROCESSING)
        (sketch,) = studio.batch_jobs([batch.batch_id], sketched=True).values()
        assert (batch_view("", sketch).estimated_time_seconds or 0.0) > 1.0
        studio.cancel_batch(batch.batch_id, force=True)
