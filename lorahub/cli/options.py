"""Options and arguments that several commands share: one definition and one help text each.

A command uses them as annotations, and its signature gives the default: `def runs(as_json: Json = False)`.
"""

from pathlib import Path
from typing import Annotated

import typer

from lorahub.method_names import METHODS

# What is trained.
Recipe = Annotated[str | None, typer.Argument(help="A YAML recipe, or the name of a shipped one (`lorahub recipes`).")]
Data = Annotated[
    str | None,
    typer.Option(
        help="Data set name, Hub id, folder or file; default: the recipe's, else pubhealth, else starter-wording."
    ),
]
Base = Annotated[
    str | None, typer.Option(help="Hub id or folder of the base model; default: the recipe's, else minilm.")
]
Method = Annotated[
    str | None, typer.Option(help=f"Fine-tuning method: {', '.join(METHODS)}; default: the recipe's, else lora.")
]
Seed = Annotated[int | None, typer.Option(help="Training seed; default: the recipe's, else 0.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Any config field, as in train.epochs=3; repeatable."),
]
Margin = Annotated[
    float | None,
    typer.Option(help="Difference in the metric below which models are equivalent; default: eval.margin."),
]
Discard = Annotated[bool, typer.Option("--discard", help="Delete the folder of each run; keep its figures.")]

# What is read.
Adapter = Annotated[
    str, typer.Argument(metavar="ADAPTER", help="Run folder, name under runs/ or USER/NAME[@REVISION].")
]
AdapterBase = Annotated[str | None, typer.Option(help="Base model; default: the recorded base of the adapter.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or a name under runs/.")]
Root = Annotated[Path, typer.Option(help="Folder with the runs.")]
Split = Annotated[str, typer.Option(help="Split to evaluate on: test, validation or train.")]
Adjust = Annotated[bool, typer.Option(help="Apply the label bias that was chosen on validation.")]

# What is published.
Token = Annotated[
    str | None, typer.Option(help="Access token; default: the login (`hf auth login` or HF_TOKEN).", show_default=False)
]
BaseId = Annotated[
    str | None, typer.Option(help="Hub id of a base that was a local folder in training: USER/NAME[@REVISION].")
]
License = Annotated[
    str | None,
    typer.Option("--license", "--licence", help="License of the adapter, as in mit; default: asked, or the base's."),
]
Language = Annotated[str | None, typer.Option(help="Language for the card, as in en.")]
Private = Annotated[bool, typer.Option("--private", help="Create a new repository as private.")]
ForcePush = Annotated[bool, typer.Option("--force-push", help="Replace a classifier in the repository of --push.")]
Message = Annotated[str | None, typer.Option(help="Commit message.")]

# What is printed.
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
