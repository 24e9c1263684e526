"""Every failure that a person can mend.

SlipstreamError                 exit code 1: the work failed
├── RejectedArtifactError       exit code 1: what was made is not good enough; it is kept aside
├── SpecError                   exit code 2: the deployment file or a ``--set`` override is wrong
└── StaleArtifactError          exit code 3: an artifact is missing, stale or damaged

Each carries a ``mend``: what to do about it. The command line prints both and no traceback.
"""


class SlipstreamError(Exception):
    """A failure that names where, what was found, the limit and the mend."""

    exit_code = 1

    def __init__(self, message: str, *, mend: str) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message}\n  mend: {self.mend}"


class RejectedArtifactError(SlipstreamError):
    """What a stage made did not pass its own check: it must not be used, and is kept aside to be looked at."""


class SpecError(SlipstreamError):
    """The deployment spec cannot be used as it is written."""

    exit_code = 2


class StaleArtifactError(SlipstreamError):
    """An artifact on disk is missing, damaged or was made from something else than the spec now says."""

    exit_code = 3
