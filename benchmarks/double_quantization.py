"""What double quantization saves, in bits per parameter, counted over the tensors of a real quantized matrix.

The QLoRA paper (arXiv:2305.14314, section 3) says 0.373: one constant of 32 bits for 64 parameters, 0.5 bits each,
becomes one of 8 bits, and one of 32 bits for 256 of those, 0.127.

    python benchmarks/double_quantization.py
    python benchmarks/double_quantization.py --width 1024
"""

import argparse

import bitsandbytes

PAPER = 0.373


def bits(width, double):
    """Return the bits per parameter of a square matrix with its constants."""
    layer = bitsandbytes.nn.Linear4bit(width, width, bias=False, compress_statistics=double, quant_type="nf4").to("cpu")
    state = layer.weight.quant_state
    constants = [state.absmax, state.state2.absmax, state.offset] if double else [state.absmax]
    return 8 * sum(tensor.nbytes for tensor in (layer.weight.data, *constants)) / width**2


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096, help="Width of the square matrix.")
    width = parser.parse_args().width
    plain, double = bits(width, double=False), bits(width, double=True)
    print("bits per parameter      plain   double   saved   paper")
    print(f"{f'{width} x {width}':22} {plain:6.3f}   {double:6.3f}  {plain - double:6.3f}   {PAPER:.3f}")


if __name__ == "__main__":
    main()
