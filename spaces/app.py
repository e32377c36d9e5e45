"""Adapters that classify claims, side by side on one base: the page of `lorahub app`, on a Space as on a laptop.

Written by `lorahub space`. To run it elsewhere: pip install -r requirements.txt, then python app.py
"""

from lorahub.app import build

BASE = "sentence-transformers/all-MiniLM-L6-v2@c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
ADAPTERS = [
    "USER/starter-checkable@0000000000000000000000000000000000000000",
    "USER/starter-topic@0000000000000000000000000000000000000000",
    "USER/starter-wording@0000000000000000000000000000000000000000",
]

# At the top level of the module: a Space's GPU can use only what is loaded before the page is served.
demo = build.page(ADAPTERS, base=BASE)

if __name__ == "__main__":
    build.run(demo)
