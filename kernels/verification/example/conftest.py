"""Triton's interpreter for the tests: chosen before triton is imported, and exact in bfloat16."""

import os

os.environ["TRITON_INTERPRET"] = "1"

from verification import faithful_bfloat16

faithful_bfloat16.install()
