"""What kernel modules need of numba. Where kernels are loaded from files, numba is not imported for it."""

from __future__ import annotations

from typing import Any

from agent.compiled.mode import Absent, from_files
from agent.compiled.target import asked, tell_numba

cgutils: Any
types: Any
intrinsic: Any
cpu_name: str | None  # of the CPU to compile for; None: this one
cpu_features: str | None

if from_files():
    cgutils = types = intrinsic = Absent()
else:
    tell_numba()
    from numba import extending
    from numba import types as numba_types
    from numba.core import cgutils as numba_cgutils

    cgutils, types, intrinsic = numba_cgutils, numba_types, extending.intrinsic
cpu_name, cpu_features = asked()
