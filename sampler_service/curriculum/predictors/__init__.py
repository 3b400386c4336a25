"""Arithmetic of pass-rate predictions, apart from any state: calibration, groups of like prompts."""
