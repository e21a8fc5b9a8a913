"""Errors of cleaning."""

from __future__ import annotations

from wenlan_jax.util.errors import WenlanError


class MissingPackageError(WenlanError, ImportError):
    """A package of the extra `clean` is not installed."""
