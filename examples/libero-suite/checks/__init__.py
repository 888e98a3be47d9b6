"""This repository's own checks: nothing of vladoctor's, whose package of that name is vladoctor.checks."""


def check_trials(count, least=3):
    """Refuse to speak of a success rate over fewer episodes."""
    if count < least:
        raise ValueError(f"{count} episodes say nothing; run {least}")
