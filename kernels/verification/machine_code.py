"""Resources of a compiled Triton kernel: registers, spills and shared memory. Widths of loads and stores.

Nothing runs. NVIDIA's code is read with the tools inside the Triton wheel; AMD's is text already. Numbers of instructions count
places in the program, not executions.
"""

import re
import struct
import subprocess
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import triton
from triton.compiler import CompiledKernel

NVIDIA_TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"

SASS_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
AMD_INSTRUCTION = re.compile(r"^\t([a-z]\w*)", re.MULTILINE)
AMD_GLOBAL = re.compile(
    r"(?:global|buffer|flat)_(?P<kind>load|store)_(?P<unit>u?byte|sbyte|[us]?short|dword)(?:x(?P<units>\d))?"
)
AMD_UNIT_BYTES = {"byte": 1, "ubyte": 1, "sbyte": 1, "short": 2, "ushort": 2, "sshort": 2, "dword": 4}

LLVM_POINTER = re.compile(r"ptr addrspace\([18]\) (?:[\w()]+ )*(%[\w.]+)")  # to global memory, plain or AMD's buffers
LLVM_PHI_VALUE = re.compile(r"\[ (%[\w.]+), %")
LLVM_ACCESSES = (  # of global memory: `lanes` values of `bits` or of `type`
    re.compile(
        r'asm sideeffect ".*?(?<![a-z])(?:ld|st)\.[\w.:]*?global[\w.:]*?\.(?:v(?P<lanes>\d)\.)?b(?P<bits>\d+)\b'
    ),
    re.compile(r'asm sideeffect ".*?\bcp\.async\.c[ag]\.shared\.global [^;]*?0x(?P<bytes>[0-9a-f]+)'),
    re.compile(r"@llvm\.(?:amdgcn\.raw\.ptr\.buffer|masked)\.(?:load|store)\.(?:v(?P<lanes>\d+))?[a-z]+(?P<bits>\d+)"),
    re.compile(r"= load (?:<(?P<lanes>\d+) x )?(?P<type>\w+)>?, ptr addrspace\(1\)"),
    re.compile(r"^\s*store (?:<(?P<lanes>\d+) x )?(?P<type>\w+)>? .*, ptr addrspace\(1\)"),
)
LLVM_FLOAT_BITS = {"half": 16, "bfloat": 16, "float": 32, "double": 64}


@dataclass(frozen=True)
class MachineCode:
    """The static facts of one kernel, compiled for one target and one set of arguments."""

    registers: int  # of a thread; on AMD the vector registers
    scalar_registers: int  # of an AMD wave; NVIDIA does not tell
    spilled_registers: int  # as AMD's compiler counts them; NVIDIA's show as local loads and stores
    stack_bytes: int  # of a thread
    local_loads: int  # instructions on a thread's private memory: LDL, scratch_load
    local_stores: int
    shared_bytes: int  # of a program
    num_warps: int
    instructions: int
    loads: str  # from global memory, "16×8 4×2": eight of 16 bytes a thread, two of 4; widest first
    stores: str
    widths: str  # "q 8, cos 16": bytes of the narrowest load or store of each argument


def read_machine_code(kernels: Sequence[CompiledKernel]) -> list[MachineCode]:
    """The facts of each of these kernels, which were compiled for one target."""
    is_nvidia = any("cubin" in kernel.asm for kernel in kernels)
    facts = _read_cubins(kernels) if is_nvidia else [_read_amdgcn(kernel.asm["amdgcn"]) for kernel in kernels]
    return [
        MachineCode(
            **found,
            shared_bytes=kernel.metadata.shared,
            num_warps=kernel.metadata.num_warps,
            widths=", ".join(f"{name} {width}" for name, width in _widths(kernel).items()),
        )
        for kernel, found in zip(kernels, facts, strict=True)
    ]


def _widths(kernel: CompiledKernel) -> dict[str, int]:
    arguments = [name for name, kind in kernel.src.signature.items() if kind != "constexpr"]
    return argument_widths(kernel.asm["llir"], arguments)


def _read_cubins(kernels: Sequence[CompiledKernel]) -> list[dict[str, int | str]]:
    """Disassemble all kernels as one piece of code: the disassembler needs half a second to start."""
    cubins = [kernel.asm["cubin"] for kernel in kernels]
    sections = [_code_section(cubin) for cubin in cubins]
    chip = re.search(r"^\.target sm_(\w+)", kernels[0].asm["ptx"], re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code"
        path.write_bytes(b"".join(sections))
        assert chip is not None
        sass = _output("nvdisasm", "-b", f"SM{chip[1]}", "-ndf", str(path))
        usages = []
        for cubin in cubins:
            path.write_bytes(cubin)
            usages.append(_output("cuobjdump", "-res-usage", str(path)))
    starts = list(accumulate(map(len, sections)))
    instructions: list[list[str]] = [[] for _ in kernels]
    for offset, name in SASS_INSTRUCTION.findall(sass):
        instructions[bisect_right(starts, int(offset, 16))].append(name)
    return [_sass_facts(usage, names) for usage, names in zip(usages, instructions, strict=True)]


def _code_section(cubin: bytes) -> bytes:
    """The instructions of the one kernel in an ELF file: the content of its section .text.<kernel>."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    entry_bytes, num_entries, name_entry = struct.unpack_from("<3H", cubin, 0x3A)
    entries = [struct.unpack_from("<I20xQQ", cubin, table + i * entry_bytes) for i in range(num_entries)]
    _, names, _ = entries[name_entry]
    (section,) = [(start, size) for name, start, size in entries if cubin.startswith(b".text.", names + name)]
    return cubin[section[0] : sum(section)]


def _sass_facts(usage: str, instructions: Sequence[str]) -> dict[str, int | str]:
    resources = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    instructions = [name for name in instructions if name != "NOP"]  # NOP pads the end
    names = Counter(name.split(".")[0] for name in instructions)
    return {
        "registers": resources["REG"],
        "scalar_registers": 0,
        "spilled_registers": 0,
        "stack_bytes": resources["STACK"] + resources["LOCAL"],
        "local_loads": names["LDL"],
        "local_stores": names["STL"],
        "instructions": len(instructions),
        "loads": _histogram(_sass_bytes(name) for name in instructions if name.startswith(("LDG.", "LDGSTS."))),
        "stores": _histogram(_sass_bytes(name) for name in instructions if name.startswith("STG.")),
    }


def _sass_bytes(instruction: str) -> int:
    """16 of LDG.E.128, 1 of LDG.E.U8, 4 where no size is written."""
    bits = re.search(r"\.(?:ENL2\.)?[US]?(8|16|64|128|256)\b", instruction)
    return int(bits[1]) // 8 if bits else 4


def _read_amdgcn(text: str) -> dict[str, int | str]:
    facts = {name: int(value) for name, value in re.findall(r"^\s+\.(\w+):\s+(\d+)$", text, re.MULTILINE)}
    instructions = AMD_INSTRUCTION.findall(text)
    accesses = [access for name in instructions if (access := AMD_GLOBAL.match(name))]
    widths = {
        kind: [AMD_UNIT_BYTES[a["unit"]] * int(a["units"] or 1) for a in accesses if a["kind"] == kind]
        for kind in ("load", "store")
    }
    return {
        "registers": facts["vgpr_count"],
        "scalar_registers": facts["sgpr_count"],
        "spilled_registers": facts["vgpr_spill_count"] + facts["sgpr_spill_count"],
        "stack_bytes": facts["private_segment_fixed_size"],
        "local_loads": sum(name.startswith("scratch_load") for name in instructions),
        "local_stores": sum(name.startswith("scratch_store") for name in instructions),
        "instructions": len(instructions),
        "loads": _histogram(widths["load"]),
        "stores": _histogram(widths["store"]),
    }


def _histogram(widths: Iterable[int]) -> str:
    return " ".join(f"{width}×{count}" for width, count in sorted(Counter(widths).items(), reverse=True))


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([NVIDIA_TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout


def argument_widths(llir: str, arguments: Sequence[str]) -> dict[str, int]:
    """Bytes of the narrowest access of each pointer argument to global memory, atomics left out.

    llir: the optimised LLVM code of one kernel, whose first parameters %0, %1 ... are `arguments`. An access belongs to the
    argument from which address arithmetic leads to it; where threads exchange addresses, to each whose addresses they exchange.
    Machine code no longer tells: its registers are used again, and its line numbers are shifted by Triton's inline assembly.
    """
    sources: dict[str, list[str]] = {}  # pointer -> the pointers that it is computed from
    exchanged: list[str] = []  # pointers that threads pass each other as integers, through shared memory
    accesses: list[tuple[str, int]] = []  # pointer, bytes
    for line in re.findall(r"^  .*", llir, re.MULTILINE):  # of the kernel's body: declarations are not indented
        pointers = LLVM_POINTER.findall(line)
        access = next(filter(None, (pattern.search(line) for pattern in LLVM_ACCESSES)), None)
        if access:
            accesses.append((pointers[-1], _access_bytes(access)))
        elif " = phi ptr " in line:
            sources[line.split()[0]] = LLVM_PHI_VALUE.findall(line)
        elif " = ptrtoint " in line:
            exchanged += pointers
        elif " = inttoptr " in line:
            sources[line.split()[0]] = exchanged
        elif pointers and " = " in line:
            sources[line.split()[0]] = pointers
    widths: dict[str, int] = {}
    for pointer, width in accesses:
        for number in _parameters(pointer, sources):
            name = arguments[number]
            widths[name] = min(width, widths.get(name, width))
    return {name: widths[name] for name in arguments if name in widths}


def _access_bytes(access: re.Match[str]) -> int:
    found = access.groupdict()
    if "bytes" in found:
        return int(found["bytes"], 16)
    bits = found.get("bits") or LLVM_FLOAT_BITS.get(found["type"]) or found["type"].removeprefix("i")
    return int(found["lanes"] or 1) * int(bits) // 8


def _parameters(pointer: str, sources: Mapping[str, list[str]]) -> set[int]:
    """Numbers of the kernel's parameters that a pointer is computed from."""
    found, waiting = set(), {pointer}
    while waiting - found:
        found |= waiting
        waiting = {source for name in waiting for source in sources.get(name, [])}
    return {int(name[1:]) for name in found if name not in sources}
