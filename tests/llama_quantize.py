"""What stands for llama.cpp's program of this name where it is not on PATH: as it takes arguments
and an importance matrix, and with llama.cpp's own quantiser of rows, which xllamacpp's library has.
It knows Q4_K_M alone, in which matrices are Q4_K, or Q5_0 where 256 does not divide their columns.
"""

import ctypes
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Type

WHOLE = ("_norm.weight", "ssm_conv1d", "ffn_gate_inp.weight")


def rows(values, kind, weights):
    """The codes of [rows, columns] FP32; ``weights`` [columns] FP32, or None."""
    import xllamacpp

    library = ctypes.CDLL(str(Path(xllamacpp.__file__).parent / "xllamacpp.abi3.so"))
    quantise = library.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    quantise.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    block, held = GGML_QUANT_SIZES[kind]
    values = np.ascontiguousarray(values, np.float32)
    codes = np.empty((len(values), values.shape[1] // block * held), np.uint8)
    given = None if weights is None else np.ascontiguousarray(weights, np.float32)
    at = None if given is None else given.ctypes.data
    written = quantise(int(kind), values.ctypes.data, codes.ctypes.data, 0, *values.shape, at)
    assert written == codes.size
    return codes


def importances(path):
    """Mean squares [experts, columns] of each tensor by name, as common_imatrix_load has them."""
    held = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    found = {}
    for name in (name.removesuffix(".in_sum2") for name in held if name.endswith(".in_sum2")):
        sums, counts = held[f"{name}.in_sum2"], held[f"{name}.counts"]  # [e, columns], [e, 1]
        found[name] = np.where(counts > 0, sums / np.maximum(counts, 1), 1)
    return found


def coded(tensor, found):
    """(codes, type) of a tensor of the file; None where it stays as it is."""
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    if values.ndim < 2 or not tensor.name.endswith("weight"):
        return None
    if any(words in tensor.name for words in WHOLE):
        return None
    kind = Type.Q5_0 if values.shape[-1] % 256 else Type.Q4_K
    if tensor.name in ("token_embd.weight", "output.weight"):
        return rows(values, kind, None), kind
    mine = found[tensor.name]  # every other matrix has one
    stack = values.reshape(-1, *values.shape[-2:])
    assert mine.shape == (len(stack), stack.shape[-1]), (tensor.name, mine.shape)
    codes = [rows(matrix, kind, own) for matrix, own in zip(stack, mine, strict=True)]
    return np.stack(codes).reshape(*values.shape[:-1], -1), kind


def plan(reader, found):
    """What it prints in a dry run: a line a tensor."""
    for number, tensor in enumerate(reader.tensors, 1):
        made = coded(tensor, found)
        shape = ", ".join(f"{n:5}" for n in (*map(int, tensor.shape), 1, 1, 1)[:4])
        line = f"[{number:4}/{len(reader.tensors):4}] {tensor.name:36} - [{shape}],"
        line += f" type = {tensor.tensor_type.name.lower():>6}, size = {0:8.3f} MiB"
        print(line + (f" -> {0:8.2f} MiB ({made[1].name.lower()})" if made else ""))


def main(words):
    """[--dry-run] --imatrix FILE SOURCE [TARGET] Q4_K_M."""
    dry = words[0] == "--dry-run"
    words = words[dry:]
    if words[0] != "--imatrix" or words[-1] != "Q4_K_M":
        sys.exit(f"not written by what stands for it: {words}")
    found, reader = importances(words[1]), gguf.GGUFReader(words[2])
    if dry:
        plan(reader, found)
        return
    target = words[3]
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(name, field.contents(), kind, field.types[-1])
    for tensor in reader.tensors:
        made = coded(tensor, found)
        if made is None:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        else:
            writer.add_tensor(tensor.name, made[0], raw_dtype=made[1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1:])
