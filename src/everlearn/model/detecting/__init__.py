"""Detectors: what finds boxes in images, behind one protocol (`detector`)."""
