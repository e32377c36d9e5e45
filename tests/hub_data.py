"""Data sets for the Hub of the tests, shaped as real ones lie there: class labels, the Hub's own parquet conversion."""

import io

from conftest import WORDS, learnable

HEALTH_FACT = "ImperialCollegeLondon/health_fact"
CONVERTED = "refs/convert/parquet"
VERDICTS = ("false", "mixture", "true", "unproven")
# In the order of VERDICTS: a claim's own word, so that a tiny model can learn it.
CUES = ("never", "might", "always", "may")


def health_rows(count, seed=0, *, flawed=()):
    """Claims with class indexes as PUBHEALTH has them on the Hub, and after them the flawed (claim, label) rows."""
    rows = []
    for index, row in enumerate(learnable(count, seed)):
        plain = " ".join(word for word in row["claim"].split() if word not in CUES)
        rows.append({"claim": f"{CUES[index % 4]} {plain} {WORDS[seed]}", "label": index % 4})
    rows += [{"claim": claim, "label": label} for claim, label in flawed]
    return [{"claim_id": str(index), **row, "subjects": "Health"} for index, row in enumerate(rows)]


def parquet(rows, *, classes=VERDICTS):
    """A parquet file as the datasets library writes it, with the class names in its schema."""
    import datasets

    features = {key: datasets.Value("string") for key in rows[0]} | {"label": datasets.ClassLabel(names=list(classes))}
    file = io.BytesIO()
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(file)
    return file.getvalue()


def converted(splits):
    """path -> bytes, in the layout of the Hub's converter."""
    return {f"default/{name}/0000.parquet": parquet(rows) for name, rows in splits.items()}
