"""Replicas of curricula: append, tail, fold, snapshot, answer. Any number of equal ones share a log."""

from sampler_service.replica.curriculum_statistics import CurriculumStatistics
from sampler_service.replica.host import ReplicaHost
from sampler_service.replica.loaded_curricula import Residency
from sampler_service.replica.settings import ReplicaSettings

__all__ = ["CurriculumStatistics", "ReplicaHost", "ReplicaSettings", "Residency"]
