"""The file of the synthetic records."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence

from dpjax_accounting import write_text

from dpjax.synthesis.conditions import Columns, Condition
from dpjax.synthesis.drawing.draws import Draw, Place, interleave
from dpjax.synthesis.folder import SynthesisFolder


def write_records(
    folder: SynthesisFolder,
    columns: Columns,
    conditions: Sequence[Condition],
    records: Sequence[Place],
    draws: Mapping[Place, Draw],
) -> None:
    """Writes the chosen draws as records, conditions mixed in their proportions.

    Raises:
        OSError: for instance because the disk is full.
    """
    rows = [
        columns.record(conditions[place.condition], draws[place].text)
        for place in interleave(conditions, records)
    ]
    if folder.records.suffix == ".csv":
        file = io.StringIO(newline="")
        names = list(columns.record(conditions[0], "x"))
        # Not every version of Python quotes a carriage return by itself.
        writer = csv.DictWriter(file, names, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
        text = file.getvalue()
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(folder.records, text, mode=folder.records_mode)
