"""NVRTC through ctypes: compiles CUDA C++ where the library is there, without a GPU."""

import ctypes
import ctypes.util
import importlib.util
from pathlib import Path


def library():
    """The library of the wheel ``nvidia-cuda-nvrtc-cu12`` or of the system, or None."""
    spec = None
    if importlib.util.find_spec("nvidia") is not None:
        spec = importlib.util.find_spec("nvidia.cuda_nvrtc")
    folders = [] if spec is None else [Path(p) / "lib" for p in spec.submodule_search_locations]
    names = [str(file) for folder in folders for file in folder.glob("libnvrtc.so.*")]
    found = ctypes.util.find_library("nvrtc")
    for name in [*names, *([found] if found else [])]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def compile_cubin(nvrtc, source, architecture):
    """Machine code and the compiler's log; raises RuntimeError with the log if it fails."""
    program = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"pass.cu", 0, None, None
    )
    assert status == 0
    options = [f"--gpu-architecture={architecture}", "--ptxas-options=-v"]
    argv = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    failed = nvrtc.nvrtcCompileProgram(program, len(options), argv)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    text = log.value.decode()
    if failed:
        raise RuntimeError(text)
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, code)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code.raw, text
