"""Cases of `codegen` without those in float16, whose code is that of bfloat16 but for its name."""

from dataclasses import replace

import torch

from tests.kernels import codegen_cases

CASES = {
    name: replace(case, dtypes=tuple(dtype for dtype in case.dtypes if dtype != torch.float16))
    for name, case in codegen_cases.CASES.items()
}
