"""Hinted handoff: records that a cluster cannot take just now are kept on disk, and written when it is back."""

from kateway.storage.handoff.handoff import DiskHandoff, HandoffConfig

__all__ = ["DiskHandoff", "HandoffConfig"]
