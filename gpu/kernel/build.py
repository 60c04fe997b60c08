#!/usr/bin/env python3
"""Builds the megakernel's image for hosts that have a driver and nothing else, and gates it.

    build.py --same                 compares the record with sources and image; needs no tools
    build.py --tools DIR            installs the pinned compiler into a virtual environment
    build.py --tools DIR --check    gates the source, and compares the committed image with it
    build.py --tools DIR --write    gates the source, and writes the image and its record anew

The image (`megakernel.fatbin`) holds one cubin per architecture and PTX for later ones. It is
compared byte by byte: the pinned compiler is deterministic. Exit code 3 says that the tools could
not be installed; anything else that is not 0, that something is wrong. Needs no GPU.
"""

import argparse
import concurrent.futures
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import venv

HERE = pathlib.Path(__file__).resolve().parent
IMAGE = HERE / "megakernel.fatbin"
RECORD = HERE / "megakernel.txt"
# One set: a newer nvvm emits PTX that this ptxas refuses. The disassembler reads older cubins.
PINNED = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cuda-nvdisasm==13.2.51",
]
ARCHITECTURES = ["80", "89", "90", "100", "120"]
GATED = "90"
KERNEL = "orlop_megakernel"
REGISTERS_MAX = 128
# Relative, so that the image does not depend on where it was built.
SOURCE = "megakernel.cu"
# Each operation as a kernel of its own: compiled to be told of, and no part of the image.
ALONE = "gate.cu"
ALONE_PREFIX = "orlop_op_"


class Wrong(Exception):
    """What the gate found."""


def run(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode != 0:
        raise Wrong(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def install(folder):
    """The folder of the tools' programs, or None if they cannot be had."""
    found = sorted(folder.glob("lib/python*/site-packages/nvidia/cu13/bin"))
    stamp = folder / "pinned.txt"
    wanted = "\n".join(PINNED)
    if found and stamp.exists() and stamp.read_text() == wanted:
        return found[0]
    try:
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        run(pip + PINNED, timeout=540)
    except (Wrong, OSError, subprocess.SubprocessError) as why:
        print(f"the tools were not installed: {why}", file=sys.stderr)
        return None
    stamp.write_text(wanted)
    return sorted(folder.glob("lib/python*/site-packages/nvidia/cu13/bin"))[0]


def sources():
    digest = hashlib.sha256()
    for path in sorted([*HERE.glob("*.cuh"), HERE / SOURCE, HERE / "layout.gen.h"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def compile_all(nvcc, scratch, environment):
    """A cubin per architecture and PTX for the newest; and what ptxas said of the gated one."""

    def cubin(arch):
        out = scratch / f"sm_{arch}.cubin"
        common = [nvcc, "-std=c++17", "-O3", "-Xptxas", "-v", "-Xptxas", "-warn-spills"]
        text = run(
            [*common, f"-arch=sm_{arch}", "-cubin", "-o", str(out), SOURCE],
            cwd=HERE,
            env=environment,
        )
        if "warning" in text:
            raise Wrong(f"sm_{arch}: {text}")
        return text

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        said = dict(zip(ARCHITECTURES, pool.map(cubin, ARCHITECTURES)))
    ptx = [nvcc, "-std=c++17", "-O3", "-arch=compute_80", "-ptx"]
    run([*ptx, "-o", str(scratch / "compute_80.ptx"), SOURCE], cwd=HERE, env=environment)
    return said[GATED]


def bind(fatbinary, scratch, environment):
    images = []
    for arch in ARCHITECTURES:
        images.append(f"--image3=kind=elf,sm={arch},file=sm_{arch}.cubin")
    images.append("--image3=kind=ptx,sm=80,file=compute_80.ptx")
    run(
        [fatbinary, "-64", "--compress-all", "--create=megakernel.fatbin", *images],
        cwd=scratch,
        env=environment,
    )
    return (scratch / "megakernel.fatbin").read_bytes()


def needs(said, kernel):
    """Registers, bytes of stack and bytes spilled, which must be few and none."""
    about = said.split(f"'{kernel}'", 1)[1].split("Compiling entry", 1)[0]
    numbers = re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", about
    )
    registers = int(re.search(r"Used (\d+) registers", about).group(1))
    stack, stores, loads = (int(number) for number in numbers.groups())
    if stack or stores or loads:
        raise Wrong(f"{kernel}: stack frame {stack}, spills {stores} and {loads} bytes")
    if registers > REGISTERS_MAX:
        raise Wrong(f"{kernel}: {registers} registers, over {REGISTERS_MAX}")
    return f"{registers} registers, {stack} bytes of stack, {stores + loads} bytes spilled"


def gate_alone(nvcc, nvdisasm, scratch, environment):
    """What each operation needs as a kernel of its own."""
    out = str(scratch / "alone.cubin")
    common = [nvcc, "-std=c++17", "-O3", "-Xptxas", "-v", f"-arch=sm_{GATED}"]
    said = run([*common, "-cubin", "-o", out, ALONE], cwd=HERE, env=environment)
    sass = run([nvdisasm, "-c", out], env=environment)
    kernels = sorted(set(re.findall(rf"'({ALONE_PREFIX}\w+)'", said)))
    wanted = {line.split("(")[1].split(",")[0] for line in (HERE / ALONE).read_text().splitlines()
              if line.startswith("ORLOP_ALONE(")}
    if not wanted or set(kernels) != wanted:
        raise Wrong(f"{ALONE} compiles to {kernels}")
    told = []
    for kernel in kernels:
        code, _ = instructions(sass, kernel, 1)
        check_code(code)
        name = kernel.removeprefix(ALONE_PREFIX)
        told.append(f"sm_{GATED} {name}: {needs(said, kernel)}, {len(code)} instructions")
    return told


def instructions(sass, kernel, least):
    """Address and text of each instruction of a kernel, and the addresses of its labels."""
    inside, found, labels, waiting = False, [], {}, []
    for line in sass.splitlines():
        if line.startswith(".section") or line.lstrip().startswith(".section"):
            inside = f".text.{kernel}," in line
        if not inside:
            continue
        label = re.match(r"\s*(\.L_x_\d+):", line)
        if label:
            waiting.append(label.group(1))
        code = re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?);", line)
        if code:
            address = int(code.group(1), 16)
            for name in waiting:
                labels[name] = address
            waiting = []
            found.append((address, code.group(2)))
    if len(found) < least:
        raise Wrong(f"the disassembly shows {len(found)} instructions of {kernel}")
    return found, labels


def poll_loops(code, labels):
    """Of every instruction that sleeps, the smallest loop around it."""
    loops = []
    back = []
    for address, text in code:
        target = re.search(r"BRA.*?`?\(?(\.L_x_\d+)\)?", text)
        if target and labels.get(target.group(1), address) < address:
            back.append((labels[target.group(1)], address))
    for address, text in code:
        if "NANOSLEEP" not in text:
            continue
        around = [loop for loop in back if loop[0] <= address <= loop[1]]
        if not around:
            raise Wrong(f"no loop around the sleep at {address:#x}")
        loops.append(min(around, key=lambda loop: loop[1] - loop[0]))
    if len(loops) < 2:
        raise Wrong("the kernel does not poll")
    return loops


def check_code(code):
    """What no instruction may do."""
    for address, text in code:
        opcode = text.split()[1] if text.startswith("@") else text.split()[0]
        if opcode.startswith("CALL"):
            raise Wrong(f"{address:#x} calls: {text}")
        if re.match(r"(ATOM|ATOMG|RED|REDG)\b.*\bSYS", opcode.replace(".", " ")):
            raise Wrong(f"{address:#x} modifies memory of the host: {text}")
        if "CONSTANT" in opcode and opcode.startswith("LDG"):
            raise Wrong(f"{address:#x} loads past the caches' coherence: {text}")
        if opcode.startswith(("LDL", "STL")):
            raise Wrong(f"{address:#x} uses a stack: {text}")


def gate(said, sass):
    """What must hold of the machine code; returns what is told of it."""
    needed = needs(said, KERNEL)
    code, labels = instructions(sass, KERNEL, 1000)
    check_code(code)
    loops = poll_loops(code, labels)
    for first, last in loops:
        for address, text in code:
            if first <= address <= last and re.search(r"\b(CCTL|MEMBAR|ERRBAR|ATOM|ATOMG)", text):
                raise Wrong(f"{address:#x} in the loop from {first:#x} to {last:#x}: {text}")
    if not any("LDG.E.64.STRONG.SYS" in text for _, text in code):
        raise Wrong("nothing is read from the host")
    return (
        f"sm_{GATED} {KERNEL}: {needed}, {len(code)} instructions, "
        f"{len(loops)} loops that poll without a fence"
    )


def build(tools):
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        environment = dict(os.environ, PATH=f"{tools}{os.pathsep}{os.environ.get('PATH', '')}")
        said = compile_all(str(tools / "nvcc"), scratch, environment)
        cubin = str(scratch / f"sm_{GATED}.cubin")
        sass = run([str(tools / "nvdisasm"), "-c", cubin], env=environment)
        told = [gate(said, sass)]
        told += gate_alone(str(tools / "nvcc"), str(tools / "nvdisasm"), scratch, environment)
        return "\n".join(told), bind(str(tools / "fatbinary"), scratch, environment)


def record(image):
    lines = [f"sources {sources()}", f"image {hashlib.sha256(image).hexdigest()}"]
    return "\n".join(lines + [f"tool {name}" for name in PINNED]) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tools", type=pathlib.Path)
    parser.add_argument("--same", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    if asked.same:
        if RECORD.read_text() == record(IMAGE.read_bytes()):
            return 0
        print(f"{RECORD.name} is of other sources: --write makes it anew", file=sys.stderr)
        return 1
    if asked.tools is None:
        parser.error("--tools or --same")
    tools = install(asked.tools)
    if tools is None:
        return 3
    if not (asked.check or asked.write):
        return 0
    try:
        told, image = build(tools)
        print(told)
        if asked.write:
            IMAGE.write_bytes(image)
            RECORD.write_text(record(image))
        if not IMAGE.exists() or IMAGE.read_bytes() != image:
            raise Wrong(f"{IMAGE.name} is not what the sources compile to: --write makes it anew")
        if RECORD.read_text() != record(image):
            raise Wrong(f"{RECORD.name} is of other sources: --write makes it anew")
    except Wrong as why:
        print(f"the gate is shut: {why}", file=sys.stderr)
        return 1
    print(f"image: {len(image)} bytes, sm {', '.join(ARCHITECTURES)} and PTX, as committed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
