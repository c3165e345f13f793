"""What kernel modules need of numba. Where kernels are loaded from files, numba is not imported for it."""

from __future__ import annotations

import os
from typing import Any

from agent.compiled.mode import Absent, from_files

cgutils: Any
types: Any
intrinsic: Any
cpu_name: str | None  # of the CPU to compile for; None: this one
cpu_features: str | None

if from_files():
    cgutils = types = intrinsic = Absent()
    cpu_name = os.environ.get("NUMBA_CPU_NAME") or None
    cpu_features = os.environ.get("NUMBA_CPU_FEATURES") or None
else:
    from numba import extending
    from numba import types as numba_types
    from numba.core import cgutils as numba_cgutils
    from numba.core import config

    cgutils, types, intrinsic = numba_cgutils, numba_types, extending.intrinsic
    settings: Any = config
    cpu_name, cpu_features = settings.CPU_NAME, settings.CPU_FEATURES
