"""Collective communication of the stand-in: one process."""
