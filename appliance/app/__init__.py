"""The composition root: settings in, planes out. The only package that knows everybody.

:func:`run` makes the keeper and gives it the planes; each plane's main function binds rooms together in one
trio loop. Planes meet only in messages and regions, so ``planes: together`` runs the same three bodies in one
process (``design.md §4``).
"""

from .control import control_plane
from .hive import Hive, Seams
from .planes import data_plane, plane_mode, run
from .world import world_plane

__all__ = ["Hive", "Seams", "control_plane", "data_plane", "plane_mode", "run", "world_plane"]
