"""Brings a model to where the user's programs look for it."""

from everlearn.deploy.copy import deploy

__all__ = ["deploy"]
