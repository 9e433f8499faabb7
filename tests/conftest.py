"""What holds for every test: property tests draw the same examples on every run, and machine speed fails none."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")
