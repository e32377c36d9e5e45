"""What double quantisation saves, in bits a parameter, counted over the bytes of real quantised weights.

The QLoRA paper (arXiv:2305.14314, section 3) says 0.373: one constant of 32 bits for 64 parameters, 0.5 bits each,
becomes one of 8 bits, and one of 32 bits for 256 of those, 0.127.

    python benchmarks/double_quantization.py                  # a matrix of 4096 x 4096, and the default base
    python benchmarks/double_quantization.py --base FOLDER
"""

import argparse

from transformers import AutoConfig, AutoModelForSequenceClassification

from lorahub.hub import fetch
from lorahub.models import architectures, quantization

PAPER = 0.373


def matrix(width, double):
    """Bits a parameter of one square matrix."""
    import bitsandbytes

    layer = bitsandbytes.nn.Linear4bit(width, width, bias=False, compress_statistics=double, quant_type="nf4")
    return quantization.bits_per_parameter(layer.to("cpu"))


def model(base, double):
    """Bits a quantised parameter of a base with a classification head."""
    folder = fetch.base(base).folder
    config = AutoConfig.from_pretrained(folder)
    heads = architectures.head_names(AutoModelForSequenceClassification.from_config(config))
    loaded = AutoModelForSequenceClassification.from_pretrained(
        folder, quantization_config=quantization.settings(quantization.NF4, heads, double=double)
    )
    return quantization.bits_per_parameter(loaded)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="minilm", help="Hub id or folder of the base.")
    parser.add_argument("--width", type=int, default=4096, help="Width of the square matrix.")
    asked = parser.parse_args()
    print("bits a parameter        plain   double   saved   paper")
    for name, measure, size in (
        (f"{asked.width} x {asked.width}", matrix, asked.width),
        (asked.base, model, asked.base),
    ):
        plain, double = (measure(size, choice) for choice in (False, True))
        print(f"{name:22} {plain:6.3f}   {double:6.3f}  {plain - double:6.3f}   {PAPER:.3f}")


if __name__ == "__main__":
    main()
