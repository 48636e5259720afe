"""Everything that can go wrong, by name. The docstring of a class is the sentence a person reads.

Errors are raised where they are known and translated once, at the edge (REST, Gradio, the command line).
`permanent` says that a second try cannot succeed: the worker fails such a job at once.
"""

from __future__ import annotations

import inspect


class StudioError(Exception):
    """The studio could not do that."""

    permanent = True

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.cleandoc(type(self).__doc__ or ""))


class InvalidRequest(StudioError):
    """The request is not valid."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


class SheetUnreadable(StudioError):
    """This is not a sheet of requests."""


class JobNotFound(StudioError):
    """There is no such job."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"There is no job {job_id!r}.")


class BatchNotFound(StudioError):
    """There is no such batch."""

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        super().__init__(f"There is no batch {batch_id!r}.")


class JobConflict(StudioError):
    """The job is in a state that does not allow this."""


class RateLimited(StudioError):
    """Rate limit exceeded"""

    def __init__(self, retry_after_s: int) -> None:
        assert retry_after_s >= 1
        self.retry_after_s = retry_after_s
        super().__init__()


class LeaseLost(StudioError):
    """Another worker has taken this job over, or somebody ended it."""


class ConfigurationError(StudioError):
    """The settings do not fit together."""


class ModelNotFound(StudioError):
    """There is no such model."""


class CheckpointError(StudioError):
    """The model's files are damaged or in a format that the studio does not know."""


class DownloadError(StudioError):
    """The model's weights could not be downloaded."""

    permanent = False


class DatabaseUnavailable(StudioError):
    """The database does not answer."""

    permanent = False


class DiskFull(StudioError):
    """The disk is full: free some space and try again."""

    permanent = False


class OutOfMemory(StudioError):
    """The device has no memory left for this request."""

    permanent = False


class NotFinite(StudioError):
    """The model gave values that are not numbers: try another seed, or PRECISION=fp32."""
