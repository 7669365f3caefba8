"""Learners: what makes a model better from labelled samples."""
